"""The registry in Prefect's UI: promote a version, roll back, or ask a person whether a version may be promoted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from prefect import flow, get_run_logger
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows.artifacts import show_registry
from flows.logs import shorten_errors
from flows.start import CLONE_VARIABLE, COMMIT_VARIABLE
from tasks.errors import RunError
from tasks.params import load_settings
from tasks.registry import list_versions, promoter, verdict_question
from tasks.runs.outages import Outages
from tasks.runs.promotions import Promoter
from tasks.runs.registry import fetch_registry, shared_remote
from tasks.runs.run_context import Say
from tasks.runs.tidying import keep_untidied
from tasks.workspace import Workspace

Action = Literal["list", "promote", "promote although the gate refuses", "roll back", "ask a person"]


class Approval(RunInput):
    """The answer of a person."""

    promote: Literal["no", "yes"] = Field(description="put this version into production")
    reason: str = Field(min_length=1, description="stays in the registry")
    by: str = Field(min_length=1, description="who answers; stays in the registry")


@flow
def registry(
    action: Annotated[Action, Field(description="what to do")] = "list",
    version: Annotated[str, Field(description="such as v1.2.0; for a roll-back it stays empty")] = "",
    reason: Annotated[str, Field(description="why; stays in the registry")] = "",
    by: Annotated[str, Field(description="who does it; stays in the registry")] = "",
) -> None:
    """Show the versions of the model, promote one, or go back to the one before."""
    shorten_errors()
    say = get_run_logger().info
    clone = Path(os.environ.get(CLONE_VARIABLE, "."))
    settings = load_settings(Path.cwd())
    chosen: str = action
    if chosen == "ask a person":
        answer = _ask(clone, version, say)
        chosen, reason, by = "promote" if answer.promote == "yes" else "decline", answer.reason, answer.by
    if chosen != "list" and not (reason.strip() and by.strip()):
        raise RunError("A change of the registry needs a reason and a name. Fill in both in the form.")

    def act() -> None:
        ours = promoter(clone, os.environ[COMMIT_VARIABLE], by.strip() or "nobody", settings, say)
        _change(ours, chosen, version.strip(), reason.strip())
        show_registry(list_versions(ours.read()))

    with keep_untidied(Workspace.at(clone), f"the deployment registry ({chosen})", say):
        Outages().outlast(act, settings.run.outage_limit_s, say)


def _change(ours: Promoter, action: str, version: str, reason: str) -> None:
    if action.startswith("promote"):
        ours.promote(version, reason, override=action != "promote")
    elif action == "roll back":
        ours.roll_back(reason)
    elif action == "decline":
        ours.decline(version, reason)


def _ask(clone: Path, version: str, say: Say) -> Approval:
    """Suspend this run until a person answers; then it begins again, and this returns the answer."""
    remote = shared_remote(clone, os.environ[COMMIT_VARIABLE])
    entry = fetch_registry(clone, remote, say).version(version)
    say(f"{version} waits for a person: choose Resume in Prefect's UI.")
    return suspend_flow_run(
        wait_for_input=Approval.with_initial_data(description=verdict_question(entry)), key="approval"
    )
