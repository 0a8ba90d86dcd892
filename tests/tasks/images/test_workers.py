"""Workers: in order, on all cores; an image that crashes or blocks its decoder affects no other image."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.errors import IntegrityError
from tasks.files import sha256_hex
from tasks.images import workers
from tasks.images.decoding import PERMISSIVE, WHITE, decode
from tasks.images.packs import PackEntry, index_packs, write_packs
from tasks.images.reason_codes import RefusalCode, Refused
from tasks.images.workers import decode_all
from tests.conftest import PROJECT, draw_image
from tests.tasks.images.encoding import encode

Work = list[tuple[str, PackEntry]]


@dataclass(frozen=True)
class Deadly:
    """Ends the process that unpickles it, as a crash inside the decoder does."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


def make_work(folder: Path, data: list[bytes]) -> Work:
    list(write_packs(folder, [(sha256_hex(entry), entry) for entry in data], 10**6))
    places = index_packs(folder)
    return [(sha256_hex(entry), places[sha256_hex(entry)]) for entry in data]


def images(count: int) -> list[bytes]:
    return [encode(draw_image("ant", number)) for number in range(count)]


def test_decode_all_gives_what_decode_gives_in_order(tmp_path: Path) -> None:
    data = [*images(70), b"no image"]
    results = list(decode_all(make_work(tmp_path, data), PERMISSIVE, WHITE))
    assert [key for key, _ in results] == [sha256_hex(entry) for entry in data]
    for entry, (_, result) in zip(data[:-1], results, strict=False):
        assert not isinstance(result, Refused)
        pixels, facts = decode(entry)
        assert np.array_equal(result[0], pixels)
        assert result[1] == facts
    last = results[-1][1]
    assert isinstance(last, Refused)
    assert last.code == RefusalCode.NOT_AN_IMAGE


def test_images_stay_as_they_are_when_their_place_in_the_shared_memory_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_WAITING", 2)
    monkeypatch.setattr(workers, "_WAITING_PER_WORKER", 0)
    data = images(50)
    results = list(decode_all(make_work(tmp_path, data), PERMISSIVE, WHITE))
    for entry, (_, result) in zip(data, results, strict=True):
        assert not isinstance(result, Refused)
        assert np.array_equal(result[0], decode(entry)[0])


PROGRAM = """
import sys
from pathlib import Path
with open("started", "a") as file:
    print(__name__, file=file)
if __name__ == "__main__":
    from tasks.images.decoding import PERMISSIVE, WHITE
    from tasks.images.packs import index_packs
    from tasks.images.workers import decode_all
    places = index_packs(Path("."))
    print(len(list(decode_all(places.items(), PERMISSIVE, WHITE))))
"""


@pytest.mark.parametrize("how", [["program.py"], ["-m", "program"]])
def test_workers_do_not_import_the_program_that_started_them(tmp_path: Path, how: list[str]) -> None:
    make_work(tmp_path, images(20))
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    output = subprocess.check_output([sys.executable, *how], cwd=tmp_path, env=environment, text=True)
    assert output == "20\n"
    assert (tmp_path / "started").read_text(encoding="utf-8") == "__main__\n"


def test_decode_all_stops_at_a_damaged_pack(tmp_path: Path) -> None:
    work = make_work(tmp_path, images(3))
    pack = work[1][1].pack
    content = bytearray(pack.read_bytes())
    content[work[1][1].offset + 9] ^= 1
    pack.write_bytes(content)
    with pytest.raises(IntegrityError, match="have changed since they were packed"):
        list(decode_all(work, PERMISSIVE, WHITE))


@pytest.mark.slow
def test_decoder_that_crashes_costs_one_image(tmp_path: Path) -> None:
    work = make_work(tmp_path, images(20))
    work[7] = ("deadly", PackEntry(Deadly(), 0, 0))  # type: ignore[arg-type]
    results = list(decode_all(work, PERMISSIVE, WHITE))
    assert [key for key, _ in results] == [key for key, _ in work]
    refused = {key: result.code for key, result in results if isinstance(result, Refused)}
    assert refused == {"deadly": RefusalCode.DECODER_FAILED}


@pytest.mark.slow
def test_decoder_that_hangs_costs_one_image(tmp_path: Path) -> None:
    work = make_work(tmp_path, images(6))
    os.mkfifo(tmp_path / "never")
    work[2] = ("hangs", PackEntry(tmp_path / "never", 0, 10))  # opening it waits for a writer that never comes
    results = dict(decode_all(work, PERMISSIVE, WHITE, time_limit_s=1))
    refused = {key: result.code for key, result in results.items() if isinstance(result, Refused)}
    assert refused == {"hangs": RefusalCode.DECODER_FAILED}
    assert len(results) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the data of a process")
def test_image_that_takes_too_much_memory_costs_itself_only(tmp_path: Path) -> None:
    small, large = encode(draw_image("ant", 1)), encode(Image.new("RGB", (6000, 6000), "red"))
    work = make_work(tmp_path, [small, large, encode(draw_image("ant", 2))])
    results = [result for _, result in decode_all(work, PERMISSIVE, WHITE, memory_limit_mb=60)]
    assert isinstance(results[1], Refused)
    assert results[1].code in (RefusalCode.DECODER_FAILED, RefusalCode.TOO_MANY_PIXELS)
    assert "memory" in results[1].detail
    assert not any(isinstance(results[place], Refused) for place in (0, 2))
    assert not any(isinstance(result, Refused) for _, result in decode_all(work, PERMISSIVE, WHITE))


def test_workers_end_when_the_reader_stops_early(tmp_path: Path) -> None:
    import psutil

    before = set(psutil.Process().children(recursive=True))  # what other tests of this process have left running
    running = decode_all(iter(make_work(tmp_path, images(60))), PERMISSIVE, WHITE)
    next(running)
    children = psutil.Process().children()  # the fork server is one, its children are the workers
    started = [worker for child in children for worker in child.children() if worker not in before]
    assert started
    running.close()
    assert psutil.wait_procs(started, timeout=30)[1] == []
