"""The settings that a person types for `make run`.

They stay in params.yaml, which thus shows with what settings the reports were made. So the next run says which settings
are not as committed, and how to go back.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flows.settings_changes import apply_changes
from tasks.errors import RunError, SettingsError
from tasks.params import (
    flatten,
    format_assignment,
    load_settings,
    parse_changes,
    parse_settings,
    parse_strategies,
)
from tasks.reports.comparison_wording import left_out_sentence
from tasks.runs.git import read_blob
from tasks.runs.run_context import RunContext
from tasks.settings import Settings
from tasks.workspace import PARAMS, Workspace

if TYPE_CHECKING:
    from tasks.plan import Listed

_RESET = "make run RESET=1"
_DECISION = "compare.left_out"
"""The setting that no person types; it has a sentence of its own."""


@dataclass(frozen=True)
class TypedSettings:
    """The variables of `make run`, as text.

    Attributes:
        source: SOURCE, short for the setting source.uri; empty if not given.
        strategy: STRATEGY, short for the setting strategies; empty if not given.
        assignments: SET, assignments with spaces between them.
        reset: RESET, whether to restore the committed params.yaml first.
    """

    source: str = ""
    strategy: str = ""
    assignments: str = ""
    reset: bool = False

    @cached_property
    def changes(self) -> dict[str, Any]:
        """The settings that should differ, nested as in params.yaml.

        Raises:
            SettingsError: the text is not understood.
        """
        try:
            assignments = shlex.split(self.assignments)
        except ValueError as error:
            raise SettingsError(f"SET doesn't parse: {error}. Received: {self.assignments!r}") from None
        changes = parse_changes(assignments)
        if self.source and isinstance(changes.setdefault("source", {}), dict):
            changes["source"]["uri"] = self.source
        if self.strategy:
            changes["strategies"] = parse_strategies(self.strategy)
        return changes

    def apply(self, context: RunContext, on_listed: Callable[[Listed], object] = id) -> str:
        """Write the changes into params.yaml. Returns lines that say which settings are not as committed.

        Args:
            context: where the run works.
            on_listed: is given the listing of the source.

        Raises:
            SettingsError: a setting is not allowed, or there is no commit to go back to; params.yaml is unchanged.
            SourceError: the source is not usable; params.yaml is unchanged.
            DataError: a class of the source has too few images; params.yaml is unchanged.
        """
        text = committed_params(context.workspace)
        if self.reset and text is None:
            raise SettingsError(
                f"RESET=1 needs a committed {PARAMS}, and git has none here. Commit it: git add {PARAMS} && git commit"
            )
        before = None
        with contextlib.suppress(SettingsError):  # RESET=1 repairs a file that can't be read
            before = load_settings(context.workspace.folder)
        settings = apply_changes(context, self.changes, on_listed=on_listed, base=text if self.reset else None)
        committed = None
        with contextlib.suppress(SettingsError):  # an old commit may have other settings: nothing to compare with
            committed = parse_settings(text or "", PARAMS)
        budget = left_out_sentence(settings.compare.budget_minutes, settings.compare.left_out)
        return "\n".join(filter(None, [*self._describe(settings, committed, before), budget]))

    def decided(self, settings: Settings) -> dict[str, Any]:
        """The changes with what `apply` has decided, so that the flow doesn't decide again while stages work.

        Args:
            settings: of params.yaml, after `apply`.
        """
        if settings.compare.left_out is None:
            return self.changes
        compare = settings.compare.model_dump(mode="json")
        return {**self.changes, "strategies": list(settings.strategies), "compare": compare}

    def _describe(self, settings: Settings, committed: Settings | None, before: Settings | None) -> Iterator[str]:
        given = flatten(self.changes)
        if committed is None:
            if "source.uri" not in given:
                yield f"The source is that of {PARAMS}: {settings.source.uri}"
            return
        differs = _differences(settings, committed)
        differs.pop(_DECISION, None)
        if self.reset and before and (gone := _gone(before, committed, settings)):
            yield f"Back to the committed settings, without: {_assignments(gone)}"
        if kept := {name: value for name, value in differs.items() if name not in given}:
            told = f"Settings from before, not as committed: {_assignments(kept)}"
            yield f"{told}. Without them: {self.command(reset=True)}"
        if changed := {name: value for name, value in differs.items() if name in given}:
            told = f"Changed in {PARAMS}, also for later runs: {_assignments(changed)}"
            yield f"{told}. Back to the committed settings: {_RESET}"

    def check(self) -> None:
        """Check what needs no file of the folder.

        Raises:
            SettingsError: the text is not understood.
        """
        _ = self.changes

    def command(self, *, reset: bool | None = None) -> str:
        """This run's command; `reset` replaces its RESET."""
        first = _RESET if (self.reset if reset is None else reset) else "make run"
        typed = {"SOURCE": self.source, "STRATEGY": self.strategy, "SET": self.assignments}
        return shlex.join([*first.split(), *(f"{name}={text}" for name, text in typed.items() if text)])


def committed_params(workspace: Workspace) -> str | None:
    """The text of params.yaml in the last commit; None without git, without a commit, or if the commit lacks it."""
    try:
        found = read_blob(workspace.folder, "HEAD", f"./{PARAMS}")
    except (OSError, RunError):  # git isn't installed, or there is no commit
        return None
    return None if found is None else found.decode()


def _differences(settings: Settings, others: Settings) -> dict[str, Any]:
    """The settings that are not as in the others: dotted name -> value."""
    theirs = flatten(others.model_dump(mode="json"))
    return {name: value for name, value in flatten(settings.model_dump(mode="json")).items() if value != theirs[name]}


def _gone(before: Settings, committed: Settings, now: Settings) -> dict[str, Any]:
    """The settings that were not as committed, and are not as they were: dotted name -> value that it had."""
    changed = _differences(before, now)
    return {name: value for name, value in _differences(before, committed).items() if name in changed}


def _assignments(settings: Mapping[str, Any]) -> str:
    return " ".join(format_assignment(name, value) for name, value in settings.items())
