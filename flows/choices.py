"""What a run is asked to do, checked and written into params.yaml; the same from the command line and from a form."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.runs.worktrees import RunContext
from tasks.settings import Settings, change_settings


def choose(context: RunContext, assignments: Iterable[str]) -> Settings:
    """Check the choices and write them into params.yaml; gives all settings.

    Args:
        context: where the run works.
        assignments: `block.key=value` for each setting that shall differ from what params.yaml says.

    Raises:
        SettingsError: a setting is not allowed; params.yaml is as it was.
        SourceError: the images aren't there; params.yaml is as it was.
    """
    from tasks.images.sources import SourcePolicy, check_source

    def check(settings: Settings) -> None:
        context.reach(settings.source.uri)
        check_source(settings.source.uri, SourcePolicy.of(settings.source, context.workspace))

    return change_settings(context.workspace.folder, assignments, check)
