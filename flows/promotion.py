"""The end of a deployed run: its model is registered and judged, and it goes into production or waits for a yes.

If it has to wait, that is done by a run of the deployment `registry/champion`, which needs no process meanwhile. So the
next night isn't held up, and the version that a person sees is the one that is promoted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import get_client

from flows.artifacts import show_gate
from flows.server_outages import needs_server
from tasks.registry import promoter, verdict_text
from tasks.runs.git import tip
from tasks.runs.promotions import Promoter, RefusedError, names_a_model
from tasks.runs.registry import Entry
from tasks.runs.run_context import DeployedRun, RunContext
from tasks.runs.tidying import keep_untidied
from tasks.settings import Settings
from tasks.workspace import Workspace

REGISTRY = "registry/champion"
"""The deployment of flows/registry_flow.py."""


def register_result(context: RunContext, settings: Settings, changes: Mapping[str, Any]) -> None:
    """Register the model that a deployed run has committed, and promote it as the settings `gate` say.

    Args:
        context: of the run, whose commit is made.
        settings: of the run.
        changes: the settings that somebody has changed in the form. Then it is a trial, which only people promote.

    Raises:
        RunError: the gate can't judge the model.
        TransientError: a remote or Prefect's server doesn't answer for longer than a run waits.
    """
    run = context.deployed
    if run is None or not names_a_model(Path.cwd()):
        return
    is_trial = any(block != "gate" for block in changes)
    with keep_untidied(Workspace.at(run.clone), f"the gate of the run {run.title}", run.say):
        context.outages.outlast(
            lambda: _register(run, settings, is_trial=is_trial), settings.run.outage_limit_s, run.say
        )


def _register(run: DeployedRun, settings: Settings, *, is_trial: bool) -> None:
    commit = tip(run.clone, run.branch)
    if commit is None:
        return
    ours = promoter(run.clone, run.commit, f"run of {run.name}", settings, run.say)
    registry = ours.read()
    version = ours.register(commit, f"run {run.title}", run.name)
    if version is None or registry.is_decided(version):
        return
    passed = bool(version.about.get("gate", {}).get("passed"))
    if passed and settings.gate.promote and not is_trial:
        outcome = _ask(version) if settings.gate.approval == "ask" else _promote(ours, version, run)
    elif version not in registry.versions:
        stays = "a trial, which only people promote" if passed and is_trial else "gate.promote is false"
        outcome = f"Production stays as it is: {stays if passed else 'the gate refuses this version'}."
    else:
        return
    run.say(f"{version.version}: {outcome}")
    show_gate(f"{verdict_text(version)}\n\n{outcome}")


def _promote(ours: Promoter, version: Entry, run: DeployedRun) -> str:
    try:
        ours.promote(str(version.version), f"passed the gate after the run {run.title}")
    except RefusedError as refusal:  # something else has gone into production since it was registered
        return str(refusal)
    return "It is in production."


def _ask(version: Entry) -> str:
    """Start the run that waits for a person, unless there is one. Returns its name."""
    parameters = {"action": "ask a person", "version": version.version}
    with needs_server(), get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(REGISTRY)
        waiting = client.create_flow_run_from_deployment(
            deployment.id,
            parameters=parameters,
            name=f"approve {version.version}",
            idempotency_key=version.tag + version.commit,
        )
    return f"It waits for a person: the run `{waiting.name}` of the deployment {REGISTRY} asks for yes or no."
