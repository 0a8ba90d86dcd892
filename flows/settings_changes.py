"""The settings that a run changes, checked and written into params.yaml; the same from the command line and a form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.params import change_settings
from tasks.runs.run_context import RunContext
from tasks.settings import Settings


def apply_changes(context: RunContext, changes: Mapping[str, Any]) -> Settings:
    """Write changes into params.yaml if the images are where it then says; gives all settings.

    Args:
        context: where the run works.
        changes: the settings that should differ, nested as in params.yaml.

    Raises:
        SettingsError: a setting is not allowed; params.yaml is as it was.
        SourceError: the images aren't there; params.yaml is as it was.
    """
    from tasks.images.sources import SourcePolicy, check_source

    def check(settings: Settings) -> None:
        context.link_source(settings.source.uri)
        check_source(settings.source.uri, SourcePolicy.of(settings.source, context.workspace))

    return change_settings(context.workspace.folder, changes, check)
