"""The resource usage of a program: time, processors, memory, GPUs, energy. A value is None if it can't be measured."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

import psutil

POWERCAP = Path("/sys/class/powercap")
_LOOK_EVERY_S = 1.0
_COUNTER_EVERY_S = 30.0  # a processor's counter wraps around at about 262 kJ: 20 minutes at 200 W
_GPU_EVERY_MS = 500
_GPU_QUERY = "power.draw,utilization.gpu,memory.used"


class ResourceUsage:
    """Measures the resource usage of its `with` block.

    Args:
        powercap: the folder with Linux's energy counters of processors (RAPL); on most machines only root may read it.
        gpu_tool: `nvidia-smi`, or a path to it.
    """

    def __init__(self, powercap: Path = POWERCAP, gpu_tool: str = "nvidia-smi") -> None:
        self._processes = _ProcessTree()
        self._processors = _Processors(powercap)
        self._gpus = _Gpus(gpu_tool)

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        self._processes.start()
        self._processors.start()
        self._gpus.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._gpus.stop()
        self._processors.stop()
        self._processes.stop()
        joules = {"processors": self._processors.joules, "GPUs": self._gpus.joules}
        measured = {name: value for name, value in joules.items() if value is not None}
        self.readings: dict[str, Any] = {
            "seconds": round(time.monotonic() - self._start, 3),
            "cpu_seconds": round(self._processes.cpu_seconds(), 3),
            "peak_memory_mb": _peak_memory_mb(),
            "gpu_seconds": self._gpus.busy_seconds,
            "peak_gpu_memory_mb": self._gpus.peak_memory_mb,
            "energy_j": round(sum(measured.values()), 1) if measured else None,
            "energy_of": sorted(measured),
        }


class _ProcessTree:
    """Processor time of this process and of all its descendants.

    The kernel adds a process's time to its parent's only when the parent waits for it. A pool of workers with a fork
    server never waits. So the workers are measured while they live; their last second is lost.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._before, self._children_before = _cpu_seconds()
        self._thread.start()

    def stop(self) -> None:
        self._look()
        self._done.set()
        self._thread.join()

    def cpu_seconds(self) -> float:
        own, children = _cpu_seconds()
        return own - self._before + max(children - self._children_before, sum(self._seen.values()))

    def _watch(self) -> None:
        while not self._done.wait(_LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system


class _Processors:
    """The energy of the processor packages, for all programs on the machine."""

    def __init__(self, powercap: Path) -> None:
        self._packages = sorted(powercap.glob("intel-rapl:?")) + sorted(powercap.glob("intel-rapl:??"))
        self.joules: float | None = None
        self._last: list[int] = []
        self._done = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._last = [_number(package / "energy_uj") for package in self._packages]
        if self._last:
            self.joules = 0.0
            threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        self._done.set()
        self._add()

    def _watch(self) -> None:
        while not self._done.wait(_COUNTER_EVERY_S):
            self._add()

    def _add(self) -> None:
        with self._lock:
            for place, last in enumerate(self._last):
                now = _number(self._packages[place] / "energy_uj")
                wrapped = _number(self._packages[place] / "max_energy_range_uj") if now < last else 0
                assert self.joules is not None
                self.joules += (now + wrapped - last) / 1e6
                self._last[place] = now


class _Gpus:
    """Reads nvidia-smi twice a second for the GPUs that this process may use, for all programs on them."""

    def __init__(self, tool: str) -> None:
        self._tool = shutil.which(tool)
        self._allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
        self.joules: float | None = None
        self.busy_seconds: float | None = None
        self.peak_memory_mb: float | None = None
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        if self._tool is None or self._allowed in ("", "-1"):
            return
        options = [f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader,nounits", f"--loop-ms={_GPU_EVERY_MS}"]
        options += [f"--id={self._allowed}"] if self._allowed else []
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [self._tool, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._reader.join()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # [N/A]: this GPU doesn't report it
                    watts, percent, memory_mib = map(float, line.split(","))
                    self._add(watts, percent, memory_mib)

    def _add(self, watts: float, percent: float, memory_mib: float) -> None:
        seconds = _GPU_EVERY_MS / 1000
        self.joules = (self.joules or 0.0) + watts * seconds
        self.busy_seconds = round((self.busy_seconds or 0.0) + percent / 100 * seconds, 3)
        self.peak_memory_mb = max(self.peak_memory_mb or 0.0, round(memory_mib * 1.048576))


def _number(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))


def _cpu_seconds() -> tuple[float, float]:
    """Processor seconds of this process, and of its children that have ended."""
    times = os.times()
    return times.user + times.system, times.children_user + times.children_system


def _peak_memory_mb() -> int:
    """Peak memory of this process or of its largest child, the larger one."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3))
