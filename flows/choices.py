"""What a run is asked to do, checked and written into params.yaml; the same from the command line and from a form."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tasks.settings import Settings, change_settings

METRICS = "reports/metrics.json"
REPORT = "reports/report.html"
MODEL = "models/export"


def choose(workspace: Path, assignments: Iterable[str]) -> Settings:
    """Check the choices and write them into params.yaml; gives all settings.

    Args:
        workspace: folder with params.yaml.
        assignments: `block.key=value` for each setting that shall differ from what params.yaml says.

    Raises:
        SettingsError: a setting is not allowed; params.yaml is as it was.
        SourceError: the pictures aren't there; params.yaml is as it was.
    """
    from tasks.pictures.sources import check_source

    return change_settings(workspace, assignments, lambda settings: check_source(settings.source.uri))
