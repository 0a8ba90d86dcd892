"""Registers, promotes, takes back: what changes the registry. Each change is made on what the registry says now.

Before a tag is made, the data that it needs are on DVC's remote. So whoever is killed at any step leaves the old state
or the new one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import RunError
from tasks.markdown_tables import markdown_table
from tasks.runs.accuracy_regression import describe_accuracy
from tasks.runs.first_sharing import share_old_entries
from tasks.runs.git import read_blobs
from tasks.runs.registry import (
    ARTIFACT,
    DECLINED,
    PRODUCTION,
    Entry,
    Registry,
    TakenError,
    add_entry,
    fetch_registry,
    read_registry,
)
from tasks.runs.run_context import Say
from tasks.runs.version_folders import push_version
from tasks.workspace import LOCK, METRICS

Verdict = Mapping[str, Any]
"""JSON: `passed`, `against` (a version, or None), `checks` (the table), `classes`; see `tasks.gate`."""
Judge = Callable[[str, str | None], Verdict]
"""The gate: the candidate's commit and that of the version in production -> the verdict."""
_TRIES = 5
_HEADLINES = ("accuracy", "accuracy_ci95", "n", "balanced_accuracy", "log_loss", "expected_calibration_error")


class RefusedError(RunError):
    """The gate refuses to promote a version."""


@dataclass(frozen=True)
class Promoter:
    """Somebody who may change the registry of a clone.

    Attributes:
        clone: the clone.
        remote: of git, which decides about new tags; None: the clone does. See `registry.shared_remote`.
        by: who, for the tags.
        judge: the gate.
        say: tells a person a line.
    """

    clone: Path
    remote: str | None
    by: str
    judge: Judge
    say: Say
    _verdicts: dict[tuple[str, str | None], Verdict] = field(default_factory=dict)
    _pushed: set[str] = field(default_factory=set)

    def read(self) -> Registry:
        """The registry as it is now. If only this clone has one, git's remote gets it."""
        registry = fetch_registry(self.clone, self.remote, self.say)
        if self.remote is not None:
            share_old_entries(self.clone, self.remote, registry, self.say)
        return registry

    def register(self, commit: str, why: str, deployment: str = "") -> Entry | None:
        """Register the model of a commit, with the gate's verdict, unless the newest version is the same model.

        Args:
            commit: of the run.
            why: the reason, which stays in the registry.
            deployment: whose newest version counts: deployments take turns.

        Returns:
            The version; None if dvc.yaml names no model, or no stage has made it.

        Raises:
            RunError: the registry can't be changed.
            TransientError: a remote doesn't answer.
        """
        facts = read_facts(self.clone, commit)
        if facts is None:
            return None
        for _ in range(_TRIES):
            registry = self.read()
            if same := _find_registered(registry, commit, facts, deployment):
                return same
            verdict = self._judge(commit, registry.production)
            classes = verdict.get("classes", [])
            name = registry.next_version(classes)
            told = {"version": name, "classes": classes, "deployment": deployment, "by": self.by, "why": why}
            about = {**facts, **told, "gate": _shown(verdict)}
            subject = f"Champion {name}: {_headline(facts)}; {describe_verdict(verdict)}"
            try:
                self._add(registry, f"{ARTIFACT}@{name}", commit, subject, about)
            except TakenError as error:
                self.say(f"{error} This run reads the registry again.")
                continue
            self.say(f"Registered {name}: {describe_verdict(verdict)}.")
            return read_registry(self.clone).version(name)
        raise RunError(f"The model of {commit[:10]} could not be registered: others were faster {_TRIES} times.")

    def promote(self, name: str, why: str, *, override: bool = False) -> Entry:
        """Put a version into production, if the gate lets it through.

        Args:
            name: of the version.
            why: the reason, which stays in the registry.
            override: promote it although the gate refuses it.

        Raises:
            RefusedError: the gate refuses it.
            RunError: there is no such version.
            TransientError: a remote doesn't answer.
        """
        for _ in range(_TRIES):
            registry = self.read()
            version, production = registry.version(name), registry.production
            if production == version:
                self.say(f"{name} is in production.")
                return version
            verdict = self._known_verdict(version, production)
            if not verdict["passed"] and not override:
                raise RefusedError(describe_refusal(name, verdict))
            about = {"override": override, "gate": _shown(verdict)}
            if self._assign(PRODUCTION, registry, version, why, about, "is in production"):
                return version
            self.say("This promoter reads the registry again and checks the gate again.")
        raise RunError(f"{name} could not be promoted: others were faster {_TRIES} times.")

    def roll_back(self, why: str) -> Entry:
        """Put the version into production that was there before the present one. The gate isn't asked.

        Raises:
            RunError: there is none, or somebody else has changed production meanwhile.
            TransientError: a remote doesn't answer.
        """
        registry = self.read()
        version = registry.before_production
        if version is None:
            raise RunError(f"There is no version to go back to: production has had {_name(registry.production)} only.")
        if not self._assign(PRODUCTION, registry, version, why, {"roll_back": True}, "is in production again"):
            raise RunError("Somebody else has changed production meanwhile. See what it is now: make registry")
        return version

    def decline(self, name: str, why: str) -> Entry:
        """Note that a person doesn't want a version in production. Nobody is asked about it again."""
        for _ in range(_TRIES):
            registry = self.read()
            version = registry.version(name)
            if registry.is_decided(version) or self._assign(DECLINED, registry, version, why, {}, "was declined"):
                return version
        raise RunError(f"The answer about {name} could not be kept: others were faster {_TRIES} times.")

    def _judge(self, commit: str, production: Entry | None) -> Verdict:
        pair = (commit, production.commit if production else None)
        if pair not in self._verdicts:
            against = production.version if production else None
            self._verdicts[pair] = {**self.judge(*pair), "against": against}
        return self._verdicts[pair]

    def _known_verdict(self, version: Entry, production: Entry | None) -> Verdict:
        """The verdict of the registry if it was found against what is in production now, else a new one."""
        verdict: Verdict = version.about.get("gate", {})
        against = production.version if production else None
        if verdict and verdict.get("against") == against:
            return verdict
        if verdict:
            self.say(
                f"The gate has compared {version.version} with {verdict.get('against') or 'no version'}. Now "
                f"{_name(production)} is in production, so the gate compares again."
            )
        return self._judge(version.commit, production)

    def _assign(
        self, stage: str, registry: Registry, version: Entry, why: str, about: Mapping[str, Any], said: str
    ) -> bool:
        """Make the next numbered tag. Returns whether nobody else was faster."""
        number, before = registry.next_number, registry.production
        subject = f"{version.version} {said} (before: {_name(before)}): {why}".replace("\n", " ")
        about = {**about, "version": version.version, "before": before and before.version, "by": self.by, "why": why}
        try:
            self._add(registry, f"{ARTIFACT}#{stage}#{number}", version.commit, subject, about)
        except TakenError as error:
            self.say(str(error))
            return False
        self.say(f"{version.version} {said} (number {number}).")
        return True

    def _add(self, registry: Registry, tag: str, commit: str, subject: str, about: Mapping[str, Any]) -> None:
        if self.remote is not None and commit not in self._pushed:
            push_version(self.clone, commit, self.say)
            self._pushed.add(commit)
        add_entry(self.clone, self.remote, registry, tag, commit, subject, about, self.say)


def names_a_model(folder: Path) -> bool:
    """Whether dvc.yaml in a folder names the model that is registered."""
    return ARTIFACT in (yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8")).get("artifacts") or {})


def read_facts(clone: Path, commit: str) -> dict[str, Any] | None:
    """What git knows of the model of a commit: `champion` (its strategy), `metrics` and `digests`; None without one."""
    files = read_blobs(clone, commit, ("dvc.yaml", LOCK, METRICS))
    stages = yaml.safe_load(files.get(LOCK, b"")) or {}
    model = ((yaml.safe_load(files.get("dvc.yaml", b"")) or {}).get("artifacts") or {}).get(ARTIFACT)
    known = [out for stage in stages.get("stages", {}).values() for out in stage.get("outs", ())]
    outs = {out["path"]: out["md5"] for out in known if "md5" in out}
    text = files.get(METRICS)
    if not model or model["path"] not in outs or not text:
        return None
    metrics = json.loads(text)
    tested = metrics["strategies"][metrics["champion"]]["test"]
    return {
        "champion": metrics["champion"],
        "metrics": {name: tested[name] for name in _HEADLINES if name in tested},
        "model": {"path": model["path"], "md5": outs[model["path"]]},
        "digests": {path: outs[path] for path in sorted(outs) if path.startswith("data/")},
    }


def describe_verdict(verdict: Verdict) -> str:
    """The verdict in a few words, such as `refused by the gate: accuracy, size`."""
    if not verdict:
        return "not checked by the gate"
    failed = [one["check"] for one in verdict["checks"] if not one["passed"]]
    return f"refused by the gate: {', '.join(failed)}" if failed else "passed the gate"


def verdict_table(checks: Sequence[Mapping[str, Any]]) -> str:
    """The verdict as a Markdown table."""
    heads = ["check", "candidate", "production", "limit", "passed", "sentence"]
    cells = [
        [one[head] for head in heads[:4]] + ["yes" if one["passed"] else "**no**", one["sentence"]] for one in checks
    ]
    return markdown_table(heads, [[str(cell).replace("|", "/") for cell in row] for row in cells])


def describe_refusal(name: str, verdict: Verdict) -> str:
    """Why a version is not promoted, and what a person can do."""
    sentences = "\n".join(f"  {one['check']}: {one['sentence']}" for one in verdict["checks"] if not one["passed"])
    return (
        f"The gate refuses {name}; production stays as it is.\n{sentences}\nPromote it all the same, with a reason "
        f'that stays in the registry: python -m tasks.registry promote {name} --override --why "..."'
    )


def _find_registered(registry: Registry, commit: str, facts: Mapping[str, Any], deployment: str) -> Entry | None:
    """The version that is this model already: the newest one of the deployment, or one of this commit."""
    own = [one for one in registry.versions if one.about.get("deployment") == deployment]
    if own and own[-1].about.get("model") == facts["model"]:
        return own[-1]
    return registry.version_at(commit)


def _shown(verdict: Verdict) -> dict[str, Any]:
    """The verdict without what is beside it in the tag."""
    return {name: value for name, value in verdict.items() if name != "classes"}


def _headline(facts: Mapping[str, Any]) -> str:
    tested = facts["metrics"]
    return f"test accuracy {describe_accuracy(tested)}" if "accuracy_ci95" in tested else "no metrics"


def _name(version: Entry | None) -> str:
    return str(version.version) if version else "nothing"
