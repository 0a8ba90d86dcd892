"""Program `registry`: the versions of the model, what is in production, and how to change that.

    python -m tasks.registry list
    python -m tasks.registry show v1.2.0
    python -m tasks.registry diff v1.1.0 v1.2.0
    python -m tasks.registry promote v1.2.0 --why "..." [--override]
    python -m tasks.registry roll-back --why "..."

The versions are git tags as GTO writes them, see `tasks.runs.registry`. With `--json`, the output is for programs.
"""

from __future__ import annotations

import argparse
import getpass
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from tasks.errors import RunError, TransientError
from tasks.markdown_tables import markdown_table
from tasks.params import load_settings
from tasks.program import run_program
from tasks.runs.git import git
from tasks.runs.promotions import Promoter, describe_verdict, verdict_table
from tasks.runs.registry import PRODUCTION, Entry, Registry, fetch_registry, read_registry, shared_remote
from tasks.runs.run_context import Say
from tasks.runs.tidying import keep_untidied
from tasks.settings import Settings
from tasks.workspace import Workspace

NONE = "\u2013"
_METRICS = {
    "accuracy": "test accuracy",
    "balanced_accuracy": "balanced accuracy",
    "log_loss": "log loss",
    "expected_calibration_error": "calibration error",
    "n": "test images",
}


def promoter(clone: Path, commit: str, by: str, settings: Settings, say: Say) -> Promoter:
    """Who changes the registry of a clone, with the gate.

    Args:
        clone: the clone.
        commit: whose settings of DVC say whether anything is shared.
        by: who, for the tags.
        settings: for the gate.
        say: tells a person a line.
    """

    def judge(candidate: str, production: str | None) -> dict[str, Any]:
        from tasks.gate import judge_versions  # most changes need no gate

        return judge_versions(clone, settings, say, candidate, production)

    return Promoter(clone, shared_remote(clone, commit), by, judge, say)


def list_versions(registry: Registry) -> str:
    """All versions as a Markdown table, the newest first."""
    if not registry.versions:
        return "No version is registered. Deployed runs register their models: docs/registry.md"
    heads = ["version", "stage", "registered", "strategy", *list(_METRICS.values())[:3], "gate", "commit"]
    rows = []
    for one in reversed(registry.versions):
        stage = PRODUCTION if one == registry.production else ""
        gate = describe_verdict(one.about.get("gate", {}))
        measured = [_metric(one, name) for name in list(_METRICS)[:3]]
        rows.append(
            [str(one.version), stage, _time(one), one.about.get("champion", NONE), *measured, gate, one.commit[:10]]
        )
    return markdown_table(heads, rows)


def show_version(registry: Registry, name: str) -> str:
    """Everything about a version."""
    version = registry.version(name)
    assigned = [one for one in registry.entries if one.stage and one.commit == version.commit]
    told = [version.subject, f"Commit {version.commit}, registered {_time(version)} by {version.by}."]
    told += [f"{_time(one)}, {one.by}, number {one.number}: {one.subject}" for one in assigned]
    rest = {key: version.about[key] for key in ("model", "digests") if key in version.about}
    told += [f"{key}: {json.dumps(value)}" for key, value in rest.items()]
    verdicts = [version.about.get("gate"), *(one.about.get("gate") for one in assigned)]
    for verdict in (one for place, one in enumerate(verdicts) if one and one not in verdicts[:place]):
        against = verdict.get("against") or "nothing in production"
        told.append(f"The gate, against {against}: {describe_verdict(verdict)}.\n\n{verdict_table(verdict['checks'])}")
    return "\n".join(told)


def verdict_text(version: Entry) -> str:
    """What a version is, and the gate's verdict about it, as Markdown."""
    verdict = version.about.get("gate", {})
    return f"**{version.subject}**\n\n{verdict_table(verdict.get('checks', []))}"


def verdict_question(version: Entry) -> str:
    """The same as a list, which is narrow enough for a form."""
    checks = version.about.get("gate", {}).get("checks", [])
    told = [f"- {one['check']}: {'passed' if one['passed'] else '**refused**'}. {one['sentence']}" for one in checks]
    return "\n".join([f"**{version.subject}**", "", *told])


def compare_versions(registry: Registry, names: Sequence[str]) -> str:
    """The metrics of two versions side by side. Without names: of production and the newest version."""
    first = registry.version(names[0]) if names else registry.production
    newest = registry.versions[-1] if registry.versions else None
    second = registry.version(names[1]) if len(names) > 1 else newest
    if first is None or second is None:
        raise RunError("There are no two versions to compare. See: python -m tasks.registry list")
    rows = [[title, _metric(first, name), _metric(second, name)] for name, title in _METRICS.items()]
    rows.append(["strategy", *(str(one.about.get("champion", NONE)) for one in (first, second))])
    digests = [one.about.get("digests", {}) for one in (first, second)]
    paths = sorted({*digests[0], *digests[1]})
    rows += [[path, *(one.get(path, NONE)[:10] for one in digests)] for path in paths]
    table = markdown_table(["", str(first.version), str(second.version)], rows)
    return f"{table}\n\nThe settings that differ: dvc params diff {first.commit[:10]} {second.commit[:10]}"


def run(chosen: argparse.Namespace, workspace: Workspace, say: Say) -> str | list[dict[str, Any]]:
    """Do what was asked for. Returns a text, or with `--json` the tags that tell of it.

    Raises:
        RunError: the gate refuses it, or there is no such version.
        TransientError: a remote doesn't answer.
    """
    clone = workspace.clone
    head = git(clone, "rev-parse", "HEAD")
    if chosen.action in ("promote", "roll-back"):
        with keep_untidied(Workspace.at(clone), f"python -m tasks.registry {chosen.action}", say):
            by = git(clone, "config", "--default", getpass.getuser(), "--get", "user.name")
            change = promoter(clone, head, by, load_settings(workspace.folder), say)
            if chosen.action == "promote":
                version = change.promote(chosen.version, chosen.why, override=chosen.override)
            else:
                version = change.roll_back(chosen.why)
        return [_record(version)] if chosen.json else ""
    registry = _read(clone, shared_remote(clone, head), say)
    if chosen.json:
        return [_record(one) for one in registry.entries if chosen.action == "list" or one.version in chosen.versions]
    if chosen.action == "show":
        return show_version(registry, chosen.versions[0])
    return compare_versions(registry, chosen.versions) if chosen.action == "diff" else list_versions(registry)


def _read(clone: Path, remote: str | None, say: Say) -> Registry:
    try:
        return fetch_registry(clone, remote, say)
    except TransientError as error:
        say(f"{remote} doesn't answer, so this is what this clone knows. {error}")
        return read_registry(clone)


def _record(entry: Entry) -> dict[str, Any]:
    return {"tag": entry.tag, "commit": entry.commit, "at": entry.at, "by": entry.by, "about": dict(entry.about)}


def _time(entry: Entry) -> str:
    return f"{datetime.fromtimestamp(entry.at, UTC):%Y-%m-%d %H:%M}"


def _metric(version: Entry, name: str) -> str:
    measured: Mapping[str, Any] = version.about.get("metrics", {})
    value = measured.get(name)
    if value is None:
        return NONE
    ends = measured.get(f"{name}_ci95")
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
    return f"{text} ({ends[0]:.3f} to {ends[1]:.3f})" if ends else text


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tasks.registry", description="The versions of the model.")
    actions = parser.add_subparsers(dest="action", required=True)
    add = partial(actions.add_parser)
    add("list", help="all versions, the newest first")
    add("show", help="everything about a version").add_argument("versions", nargs=1, metavar="VERSION")
    shown = add("diff", help="two versions side by side; without names production and the newest one")
    shown.add_argument("versions", nargs="*", metavar="VERSION")
    promote = add("promote", help="put a version into production, if the gate lets it through")
    promote.add_argument("version", metavar="VERSION")
    promote.add_argument("--override", action="store_true", help="although the gate refuses it")
    back = add("roll-back", help="put the version into production that was there before")
    for one in (promote, back):
        one.add_argument("--why", required=True, type=_reason, help="the reason; it stays in the registry")
    for one in actions.choices.values():
        one.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must say why")
    return text.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parse(arguments)

    def body() -> None:
        said = run(chosen, Workspace.at(Path.cwd()), partial(print, flush=True) if not chosen.json else _hush)
        if said:
            print(said if isinstance(said, str) else json.dumps(said, indent=1, ensure_ascii=False), flush=True)

    return run_program(body)


def _hush(_line: str) -> None:
    """JSON stands alone on stdout."""


if __name__ == "__main__":
    raise SystemExit(main())
