"""Alerts as code: automations of the Prefect server at PREFECT_API_URL. `make alerts` creates them.

The messages go to the secret webhook address in ROOTSTOCK_ALERT_WEBHOOK. It takes a POST of `{"text": "..."}`, as the
webhooks of Slack and Mattermost do; the server keeps it encrypted. Without it, an alert is only an event in the
server's feed. Running the program again updates the automations and adds no second ones.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from flows.login import with_login
from flows.server import check_access
from tasks.errors import SettingsError
from tasks.program import run_program
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from prefect.events.actions import ActionTypes
    from prefect.events.schemas.automations import AutomationCore

WEBHOOK_VARIABLE = "ROOTSTOCK_ALERT_WEBHOOK"
BLOCK = "rootstock-alerts"
FLOWS = ("pipeline", "stage", "summary", "registry", "watch")
NIGHTLY = "nightly"
"""The deployment that runs every night."""
ACCURACY_DROPPED = "rootstock.accuracy.dropped"
"""The event that a run emits when the new champion is clearly worse than the previous one."""
IMAGES_CHANGED = "rootstock.images.changed"
"""The event that the watch emits when new images differ from those that the model was tested on."""
HEARTBEAT_S = 30
"""How often a run sends a heartbeat, seconds; the same as in prefect.yaml."""
_SILENT_S = 1200.0
"""Prefect may hold the event of a run's end back for 15 minutes, if the run was made less than 5 minutes before."""
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "@\u200b"}
"""In this order. The last one puts a space without width after an @."""
_ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut")
_ADDRESS = "{{ flow_run | ui_url or '' }}"


@dataclass(frozen=True)
class Alert:
    """One automation.

    Attributes:
        name: the key by which the server's automation is found again.
        description: for people.
        expect: the events that raise the alert. With `silence_s`, the events that must keep coming.
        after: with `silence_s`, the events that arm the alert.
        silence_s: raise the alert when none of the events in `expect` came for this many seconds.
        text: Jinja template of the message to the webhook.
        of_runs: whether the events belong to runs of the project's flows.
        deployment: the events belong to runs of this deployment, and count for all of them together.
        former_names: earlier names, which a server may still use.
    """

    name: str
    description: str
    expect: tuple[str, ...]
    text: str
    after: tuple[str, ...] = ()
    silence_s: float | None = None
    of_runs: bool = True
    deployment: str | None = None
    former_names: tuple[str, ...] = ()


def _runs(*states: str) -> tuple[str, ...]:
    return tuple(f"prefect.flow-run.{state}" for state in states)


ALERTS = (
    Alert(
        "rootstock: a run failed",
        "A run failed, crashed, or took too long.",
        _runs("Failed", "Crashed", "TimedOut"),
        "{{ flow.name }} / {{ flow_run.name }} ended as {{ flow_run.state.name }}: "
        "{{ flow_run.state.message or 'no reason was given' }} " + _ADDRESS,
    ),
    Alert(
        "rootstock: a run is silent",
        "A running run sends no heartbeats: its machine is gone, or it doesn't reach the server.",
        (*_runs("heartbeat"), *_runs(*_ENDS)),
        "{{ flow.name }} / {{ flow_run.name }} has sent no heartbeat for twenty minutes: its machine is gone, or "
        "doesn't reach the server. If it is gone, the next worker sets the run to Crashed. " + _ADDRESS,
        after=_runs("heartbeat"),
        silence_s=_SILENT_S,
        former_names=("rootstock: a run was lost", "rootstock: a run vanished"),
    ),
    Alert(
        "rootstock: a run is late",
        "A run should have started, but no worker has taken it.",
        _runs("Late"),
        "{{ flow.name }} / {{ flow_run.name }} is late: no worker has taken it. Either no worker is running, or all "
        "are busy with other runs. " + _ADDRESS,
    ),
    Alert(
        "rootstock: no night finished",
        "No run of the deployment nightly has finished for 26 hours, whatever the reason.",
        _runs("Completed"),
        "{% if deployment.paused or not deployment.schedules | selectattr('active') | list %}"
        "{{ deployment.name }} is paused. Its last finished run was more than 26 hours ago."
        "{% else %}"
        "No run of {{ deployment.name }} has finished for 26 hours. Is a worker running? Did the runs fail? "
        + _ADDRESS
        + "{% endif %}",
        after=_runs(*_ENDS, "Running", "Late"),
        silence_s=26 * 3600.0,
        deployment=NIGHTLY,
    ),
    Alert(
        "rootstock: a version waits",
        "A version has passed the gate, and a person has to agree before it goes into production (gate.approval).",
        _runs("Suspended"),
        "{{ flow.name }} / {{ flow_run.name }} waits for an answer: choose Resume. " + _ADDRESS,
    ),
    Alert(
        "rootstock: the accuracy dropped",
        "The new champion is clearly worse on held-out images than the previous one.",
        (ACCURACY_DROPPED,),
        "{{ event.payload.text }}",
        of_runs=False,
    ),
    Alert(
        "rootstock: the images changed",
        "New images differ from those that the model in production was tested on.",
        (IMAGES_CHANGED,),
        "{{ event.payload.text }}",
        of_runs=False,
    ),
)


def main() -> int:
    """Create or update the server's automations. Returns the exit code."""
    return run_program(lambda: print(*ensure_alerts(os.environ.get(WEBHOOK_VARIABLE)), sep="\n"))


def ensure_alerts(webhook: str | None) -> list[str]:
    """Create or update every automation of `ALERTS`. Returns one line about each.

    Args:
        webhook: the secret address; None for no messages.

    Raises:
        SettingsError: the address is not an http(s) address, or no server is named.
        RootstockError: the server doesn't answer, or wants another login.
    """
    if webhook is not None and not webhook.startswith(("https://", "http://")):
        raise SettingsError(f"{WEBHOOK_VARIABLE} must be an http(s) address. It is a secret, so it isn't shown here.")
    if "PREFECT_API_URL" not in os.environ:
        raise SettingsError("PREFECT_API_URL must name the Prefect server, such as http://127.0.0.1:4200/api")
    os.environ.update(with_login(Workspace.at(Path.cwd()), os.environ))
    check_access(os.environ)
    from prefect import get_client  # reads the environment when it is imported

    block = _ensure_block(webhook) if webhook else None
    lines = []
    with get_client(sync_client=True) as client:
        for alert in ALERTS:
            wanted = _automation(alert, block)
            names = (alert.name, *alert.former_names)
            found = [one for name in names for one in client.read_automations_by_name(name)]
            for one in found[1:]:
                client.delete_automation(one.id)
            if found:
                client.update_automation(found[0].id, wanted)
            else:
                client.create_automation(wanted)
            lines.append(f"{'brought up to date' if found else 'made'}: {alert.name}")
    told = "messages go to the webhook" if block else f"no messages: {WEBHOOK_VARIABLE} is not set"
    return [*lines, told]


def _ensure_block(webhook: str) -> UUID:
    from prefect.blocks.fields import SecretDict
    from prefect.blocks.webhook import Webhook
    from pydantic import SecretStr

    headers = SecretDict({"Content-Type": "application/json"})
    block = Webhook(method="POST", url=SecretStr(webhook), headers=headers)
    saved = block.save(BLOCK, overwrite=True, _sync=True)  # type: ignore[call-arg]
    assert isinstance(saved, UUID)
    return saved


def _automation(alert: Alert, block: UUID | None) -> AutomationCore:
    from prefect.events.actions import CallWebhook, DoNothing
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    related = [_related("flow", *FLOWS)] if alert.of_runs else []
    counted_for = "prefect.resource.id"
    if alert.deployment:
        related.append(_related("deployment", alert.deployment))
        counted_for = "related:deployment:prefect.resource.id"
    trigger = EventTrigger(
        after=set(alert.after),
        expect=set(alert.expect),
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"} if alert.of_runs else {}),
        match_related=[ResourceSpecification(one) for one in related] or ResourceSpecification({}),
        for_each={counted_for},
        posture=Posture.Reactive if alert.silence_s is None else Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=alert.silence_s or 0),
    )
    actions: list[ActionTypes] = []
    if block:
        actions.append(CallWebhook(block_document_id=block, payload=_json(alert.text)))
    return AutomationCore(
        name=alert.name, description=alert.description, trigger=trigger, actions=actions or [DoNothing()]
    )


def _related(role: str, *names: str) -> dict[str, str | list[str]]:
    return {"prefect.resource.role": role, "prefect.resource.name": list(names)}


def _json(text: str) -> str:
    """A template that renders to `{"text": <the rendered text as a JSON string>}`.

    Names of files and messages of errors are in the text. Slack takes `<!channel>` in it for a call to everybody, so &,
    < and > are written as Slack documents it. Mattermost does so with `@all`, so no name follows an @ at once.
    """
    plain = "".join(f" | replace({old!r}, {new!r})" for old, new in _ESCAPES.items())
    return "{% set text %}" + text + '{% endset %}{"text": {{ text' + plain + " | tojson }}}"


if __name__ == "__main__":
    raise SystemExit(main())
