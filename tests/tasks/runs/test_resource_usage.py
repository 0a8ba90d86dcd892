"""Measured values are right, and values that can't be measured are None."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.runs import resource_usage
from tasks.runs.resource_usage import ResourceUsage
from tests.waiting import wait_until

BURN = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass"


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def fake_tool(folder: Path, *lines: str) -> str:
    """A program that prints what nvidia-smi would, and then waits as it does."""
    tool = folder / "gpu-tool"
    said = "".join(f"echo '{line}'\n" for line in lines)
    tool.write_text(f"#!/bin/sh\n{said}touch {folder}/said\nexec sleep 600\n")
    tool.chmod(0o755)
    return str(tool)


def counters(folder: Path, *micro_joules: int) -> Path:
    for number, value in enumerate(micro_joules):
        package = folder / f"intel-rapl:{number}"
        package.mkdir(exist_ok=True)
        (package / "energy_uj").write_text(f"{value}\n")
        (package / "max_energy_range_uj").write_text("1000000000\n")
    (folder / "intel-rapl:0:0").mkdir(exist_ok=True)  # a part of a package, counted in it already
    return folder


def test_processor_time_of_this_process_and_of_its_children_counts(tmp_path: Path) -> None:
    with ResourceUsage(tmp_path, "no-such-tool") as measured:
        burn(0.3)
        subprocess.run([sys.executable, "-c", BURN.format(0.3)], check=True)
    assert measured.readings["cpu_seconds"] >= 0.6
    assert measured.readings["seconds"] >= 0.3
    assert measured.readings["peak_memory_mb"] > 10


def test_processor_time_of_a_child_that_still_lives_counts(tmp_path: Path) -> None:
    code = BURN.format(0.3) + "\nprint('done', flush=True)\ntime.sleep(600)"
    with ResourceUsage(tmp_path, "no-such-tool") as measured:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
    child.kill()
    child.communicate()
    assert measured.readings["cpu_seconds"] >= 0.3


def test_values_that_the_machine_does_not_report_are_none(tmp_path: Path) -> None:
    with ResourceUsage(tmp_path, "no-such-tool") as measured:
        pass
    unknown = {"gpu_seconds": None, "peak_gpu_memory_mb": None, "energy_j": None, "energy_of": []}
    assert measured.readings.items() >= unknown.items()


def test_energy_of_all_packages_is_summed_and_a_counter_may_start_again(tmp_path: Path) -> None:
    counters(tmp_path, 999_000_000, 5_000_000)
    with ResourceUsage(tmp_path, "no-such-tool") as measured:
        counters(tmp_path, 2_000_000, 6_000_000)
    assert measured.readings["energy_j"] == pytest.approx(3.0 + 1.0)
    assert measured.readings["energy_of"] == ["processors"]


def test_counter_that_may_not_be_read_is_not_measured(tmp_path: Path) -> None:
    (tmp_path / "intel-rapl:0/energy_uj").mkdir(parents=True)  # reading a folder fails, also for root
    with ResourceUsage(tmp_path, "no-such-tool") as measured:
        pass
    assert measured.readings["energy_j"] is None


def test_gpus_are_asked_and_the_tool_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    before = psutil.Process().children()
    tool = fake_tool(tmp_path, "300.0, 50, 1000", "500.0, 100, 2000", "[N/A], [N/A], 1")
    with ResourceUsage(tmp_path / "none", tool) as measured:
        wait_until((tmp_path / "said").exists, "the tool to start")
    readings = measured.readings
    assert readings["energy_j"] == pytest.approx(800 * resource_usage._GPU_EVERY_MS / 1000)
    assert readings["gpu_seconds"] == pytest.approx(1.5 * resource_usage._GPU_EVERY_MS / 1000)
    assert readings["peak_gpu_memory_mb"] == pytest.approx(2097)
    assert readings["energy_of"] == ["GPUs"]
    assert set(psutil.Process().children()) <= set(before)


def test_gpus_that_are_hidden_are_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    before = psutil.Process().children()
    with ResourceUsage(tmp_path / "none", fake_tool(tmp_path, "300.0, 50, 1000")) as measured:
        assert psutil.Process().children() == before
    assert measured.readings["gpu_seconds"] is None
