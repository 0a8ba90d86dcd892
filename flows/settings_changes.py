"""Checks the settings that a run changes, from the command line or a form, and writes them into params.yaml."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tasks.budget import decide, must_decide, wanted_folds
from tasks.errors import RootstockError, TransientError
from tasks.params import change_settings
from tasks.reports.comparison_wording import left_out_sentence
from tasks.runs.costs import read_experience
from tasks.runs.run_context import RunContext
from tasks.settings import STRATEGIES, Settings

if TYPE_CHECKING:
    from tasks.plan import Listed


def apply_changes(
    context: RunContext,
    changes: Mapping[str, Any],
    *,
    on_listed: Callable[[Listed], object] | None = None,
    base: str | None = None,
) -> Settings:
    """Write changes into params.yaml, if the source of images in it is usable. Returns all settings.

    If there is a budget, also write which strategies fit into it; see `tasks.budget`.

    Args:
        context: where the run works.
        changes: the settings that should differ, nested as in params.yaml.
        on_listed: a person waits for the answer. Also check what a listing can tell, if it takes seconds, and give it
            to this function; the plan of a run does so, too. A source that doesn't answer is an error: perhaps its
            address is misspelt. Otherwise that is no error, because the stage `ingest` waits for it.
        base: text of params.yaml to change; None: the file's own.

    Raises:
        SettingsError: a setting is not allowed; params.yaml is unchanged.
        SourceError: the source is not usable; params.yaml is unchanged.
        TransientError: with `on_listed`, the source doesn't answer; params.yaml is unchanged.
        DataError: a class of the source has too few images; params.yaml is unchanged.
    """
    from tasks.images.sources import SourcePolicy, check_source
    from tasks.plan import list_source

    listed: list[Listed] = []
    decided: list[bool] = []

    def check(settings: Settings) -> dict[str, Any] | None:
        try:
            check_source(settings.source.uri, SourcePolicy.of(settings, context.workspace))
        except TransientError:
            if on_listed is not None:
                raise
        if on_listed is not None:
            listed.append(list_source(settings, context.workspace))
        if not must_decide(settings, changes):
            return None
        decided.append(True)
        wanted = list(settings.strategies)
        if "strategies" not in changes:
            left_out = {name for name, _ in settings.compare.left_out or () if name in STRATEGIES}
            wanted = sorted({*wanted, *left_out}, key=STRATEGIES.index)
        return _spend_budget(context, settings, wanted, listed, wanted_folds(settings, changes))

    settings = change_settings(context.workspace.folder, changes, check, base)
    if decided and context.deployed is not None:
        context.deployed.say(left_out_sentence(settings.compare.budget_minutes, settings.compare.left_out))
    if on_listed is not None:
        on_listed(replace(listed[0], settings=settings))
    return settings


def _spend_budget(
    context: RunContext, settings: Settings, wanted: Sequence[str], listed: Sequence[Listed], folds: int | None
) -> dict[str, Any]:
    """The changes of params.yaml: which of the wanted strategies and folds fit into `compare.budget_minutes`."""
    from tasks.plan import class_sizes, list_source

    found = listed[0] if listed else None
    if found is None:
        with contextlib.suppress(RootstockError):  # the stage `ingest` tells it, or waits
            found = list_source(settings, context.workspace)
    images = None
    if found is not None and found.listing is not None:
        images = class_sizes(found.listing, settings.source.limit_per_class).total()
    return decide(settings, wanted, images, read_experience(context.workspace), folds)
