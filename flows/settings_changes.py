"""Checks the settings that a run changes, from the command line or a form, and writes them into params.yaml."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tasks.errors import TransientError
from tasks.params import change_settings
from tasks.runs.run_context import RunContext
from tasks.settings import Settings

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

    def check(settings: Settings) -> None:
        try:
            check_source(settings.source.uri, SourcePolicy.of(settings, context.workspace))
        except TransientError:
            if on_listed is not None:
                raise
        if on_listed is not None:
            on_listed(list_source(settings, context.workspace))

    return change_settings(context.workspace.folder, changes, check, base)
