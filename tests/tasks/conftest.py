"""Linear algebra uses one thread in these tests, as in child processes (tests/conftest.py); and a shared fixture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from tasks.workspace import Workspace


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread() -> Iterator[None]:
    """Fits of the linear probe take a tenth of the CPU time."""
    import scipy.linalg  # noqa: F401 - a BLAS of its own, which must be there to be told

    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture
def far_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of far images without a network."""
    import numpy as np

    from tasks import foreign
    from tasks.images.shards import open_shards

    def pool_far(_backbone: object, workspace: Workspace) -> object:
        channels = open_shards(workspace.features / "block5_pool").shape[-1]
        return np.random.default_rng(0).normal(size=(24, 2 * channels)).astype(np.float32)

    monkeypatch.setattr(foreign, "pool_far", pool_far)
