"""One name for one thing: the names that were replaced by the field's terms don't come back."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.conftest import PROJECT

OLD = (
    "picture, pictures, likeness, Held, Reach, scratch, drops, Guarded, take_coordinates, workplace, cockpit, Meter, "
    "LiveArtifacts, Cells, Pulse, flip_averaging, placement, vanished, mend, mendable, shall, trustworthy"
)
KEPT = {
    ("tasks/prepare.py", "likeness"): "a key of the fingerprint: with another one all images would be decoded again",
    ("tasks/params.py", "placement"): "an old name in params.yaml is refused with the new one",
    ("tasks/params.py", "flip_averaging"): "the same",
    ("tests/tasks/test_settings.py", "placement"): "the same",
    ("flows/alerts.py", "vanished"): "an automation that has the old name is renamed",
}


def test_old_names_are_gone() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    words = re.compile(rf"\b({OLD.replace(', ', '|')})\b")
    found = {
        (name, word)
        for name in listed.strip("\0").split("\0")
        if Path(name).suffix in (".py", ".md", ".yaml", ".toml", ".jinja", ".css") or Path(name).name == "Makefile"
        if name not in ("CHANGELOG.md", "tests/test_words.py") and (PROJECT / name).exists()
        for word in words.findall((PROJECT / name).read_text(encoding="utf-8"))
    }
    assert found == KEPT.keys()
