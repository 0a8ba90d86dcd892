"""What a run is asked to do, checked and written into params.yaml; the same from the command line and from a form."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tasks.runs.worktrees import Place
from tasks.settings import Settings, change_settings

METRICS = "reports/metrics.json"
REPORT = "reports/report.html"
MODEL = "models/export"


def choose(
    place: Place, source: str | None, strategies: Sequence[str] | None, settings: Sequence[str] | None
) -> Settings:
    """Check the choices and write them into params.yaml; gives all settings. None or empty: as params.yaml says.

    Raises:
        SettingsError: a setting is not allowed; params.yaml is as it was.
        SourceError: the pictures aren't there.
    """
    from tasks.pictures.sources import check_source

    if source:
        place.reach(source)
        check_source(source)
    chosen = change_settings(
        place.folder,
        [
            *(settings or []),
            # JSON is YAML, so a source may hold any character.
            *([f"source.uri={json.dumps(source)}"] if source else []),
            *([f"strategies={json.dumps(list(strategies))}"] if strategies else []),
        ],
    )
    if not source:
        place.reach(chosen.source.uri)
        check_source(chosen.source.uri)
    return chosen
