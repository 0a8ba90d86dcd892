"""The tests' own rules: markers are true, and no test is skipped where skips are forbidden."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.conftest import PROJECT

SUITE = """
import pytest

def test_unmarked(): pass

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.skip(reason="there is no moon")
def test_skipped(): pass

@pytest.mark.xfail(reason="known")
def test_known(): assert False
"""


def outcomes(folder: Path, *options: str) -> dict[str, str]:
    """Name of a test -> what is said of it, or nothing if it passed."""
    (folder / "test_suite.py").write_text(SUITE)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow: .\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", str(folder / "pytest.ini"), *options]
    subprocess.run([*command, f"--junitxml={folder / 'told.xml'}", str(folder)], cwd=PROJECT, capture_output=True)
    cases = ElementTree.parse(folder / "told.xml").iter("testcase")
    return {case.attrib["name"]: " ".join(ElementTree.tostring(one, "unicode") for one in case) for case in cases}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of tests that all take too long, where nothing may be skipped."""
    return outcomes(tmp_path_factory.mktemp("suite"), "--unmarked-limit=-1000000", "--forbid-skips")


def test_unmarked_test_that_takes_long_fails_with_the_cure(told: dict[str, str]) -> None:
    assert told["test_unmarked"].startswith("<failure")
    assert "@pytest.mark.slow" in told["test_unmarked"]


def test_marked_test_may_take_long(told: dict[str, str]) -> None:
    assert told["test_slow"] == ""


def test_skipped_test_fails_with_its_reason_where_that_is_forbidden(told: dict[str, str], tmp_path: Path) -> None:
    assert told["test_skipped"].startswith(("<failure", "<error"))
    assert "there is no moon" in told["test_skipped"]
    assert outcomes(tmp_path)["test_skipped"].startswith("<skipped")


def test_expected_failure_is_no_skip(told: dict[str, str]) -> None:
    assert told["test_known"].startswith("<skipped")
