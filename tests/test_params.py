"""The tests' params.yaml has the same settings as the project's, whatever values a user has set there."""

from __future__ import annotations

from typing import Any

import yaml

from tasks.params import load_settings
from tests.conftest import PARAMS, PROJECT


def names(value: Any) -> Any:
    return {key: names(one) for key, one in value.items()} if isinstance(value, dict) else None


def test_settings_of_the_tests_are_those_of_the_project() -> None:
    own, project = (yaml.safe_load((folder / "params.yaml").read_text()) for folder in (PARAMS.parent, PROJECT))
    assert names(own) == names(project)
    assert list(own) == list(project)
    load_settings(PARAMS.parent)
