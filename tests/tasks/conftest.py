"""Linear algebra uses one thread in these tests, as in child processes (tests/conftest.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread() -> Iterator[None]:
    """Fits of the linear probe take a tenth of the CPU time."""
    import scipy.linalg  # noqa: F401 - a BLAS of its own, which must be there to be told

    with threadpool_limits(1, "blas"):
        yield
