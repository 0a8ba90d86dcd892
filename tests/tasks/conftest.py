"""Linear algebra in one thread: on cores that are busy its threads wait for each other most of the time."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits

BLAS_THREADS = "OPENBLAS_NUM_THREADS"


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread() -> Iterator[None]:
    """In this process and in its children; fits of the probe take a tenth of the CPU time."""
    import scipy.linalg  # noqa: F401 - a BLAS of its own, which must be there to be told

    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1, "blas"):
        patch.setitem(os.environ, BLAS_THREADS, "1")
        yield
