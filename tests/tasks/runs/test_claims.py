"""Claims among processes: one holder, shared holders, and those who wait."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.runs.claims import claimed
from tests.waiting import wait_until

HOLDER = """
import sys, time
from pathlib import Path
from tasks.runs.claims import claimed
with claimed(Path(sys.argv[1]), "the other run", shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    time.sleep(600)
"""


class Holder:
    """Another process that holds a claim until it is killed."""

    def __init__(self, path: Path, kind: str) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", HOLDER, path, kind], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"held\n"

    def kill(self) -> None:
        self._process.kill()  # does nothing if it has ended
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@pytest.mark.parametrize(
    ("held", "wanted", "free"),
    [
        ("alone", "alone", False),
        ("alone", "shared", False),
        ("shared", "alone", False),
        ("shared", "shared", True),
    ],
)
def test_claim_is_refused_beside_another_unless_both_are_shared(
    tmp_path: Path, held: str, wanted: str, free: bool
) -> None:
    path = tmp_path / "deep" / "claim"
    with Holder(path, held), claimed(path, "mine", shared=wanted == "shared") as mine:
        assert mine is free


def test_waiting_process_hears_who_holds_the_claim_and_gets_it_after_a_kill(tmp_path: Path) -> None:
    path, heard, got = tmp_path / "claim", [], threading.Event()

    def wait() -> None:
        with claimed(path, "mine", on_wait=heard.append) as mine:
            if mine:
                got.set()

    with Holder(path, "alone") as other:
        waiting = threading.Thread(target=wait)
        waiting.start()
        wait_until(lambda: bool(heard), "the holder to be named")
        assert heard == ["the other run"]
        assert not got.is_set()
        other.kill()
        waiting.join()
    assert got.is_set()
    assert path.read_text() == "mine"
