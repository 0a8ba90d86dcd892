"""What a run is asked to do, checked and written into params.yaml; the same from the command line and from a form."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.runs.worktrees import Place
from tasks.settings import Settings, change_settings

METRICS = "reports/metrics.json"
REPORT = "reports/report.html"
MODEL = "models/export"


def choose(place: Place, assignments: Iterable[str]) -> Settings:
    """Check the choices and write them into params.yaml; gives all settings.

    Args:
        place: where the run works.
        assignments: `block.key=value` for each setting that shall differ from what params.yaml says.

    Raises:
        SettingsError: a setting is not allowed; params.yaml is as it was.
        SourceError: the images aren't there; params.yaml is as it was.
    """
    from tasks.images.sources import check_source

    def check(settings: Settings) -> None:
        place.reach(settings.source.uri)
        check_source(settings.source.uri)

    return change_settings(place.folder, assignments, check)
