"""What this machine's processors and GPUs can do."""

from __future__ import annotations

import os
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/version")
"""Exists if NVIDIA's driver is loaded (Linux)."""


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU that may be used."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and DRIVER.exists()


def has_fast_int8() -> bool:
    """Whether the CPU multiplies 8-bit integers faster than floats (VNNI)."""
    return not has_gpu() and cpu_has("avx512_vnni", "avx_vnni")


def cpu_has(*flags: str) -> bool:
    """Whether the CPU has one of the flags (Linux)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    known = {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}
    return any(flag in known for flag in flags)
