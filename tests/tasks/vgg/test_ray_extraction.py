"""Features on a Ray cluster: a real one, of two workers on this machine."""

from __future__ import annotations

import builtins
from collections.abc import Iterator

import numpy as np
import pytest

from tasks.errors import SettingsError
from tasks.vgg.engines import Engine, Pixels, extract_here
from tasks.vgg.ray_extraction import extract_on_ray
from tasks.vgg.weights import load_weights

ENGINE = Engine("ncnn", "float32")


def images(count: int) -> Iterator[tuple[str, Pixels]]:
    random = np.random.default_rng(0)
    for number in range(count):
        yield f"image {number}", random.integers(0, 255, (224, 224, 3), dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_extract_on_ray_equals_one_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    weights = load_weights()
    here = list(extract_here(ENGINE, weights, ("block5_pool",), images(5), 2))
    there = list(extract_on_ray(ENGINE, weights, ("block5_pool",), images(5), 2))
    assert [key for key, _ in there] == [key for key, _ in here]
    for (_, one), (_, other) in zip(here, there, strict=True):
        np.testing.assert_array_equal(one, other)


def test_extract_on_ray_names_the_package_of_ray_itself(monkeypatch):
    import_module = builtins.__import__

    def without_ray(name, *arguments, **options):
        if name == "ray":
            raise ImportError(name)
        return import_module(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(SettingsError, match=r"uv pip install 'ray>=2\.50'"):
        list(extract_on_ray(ENGINE, {}, ("block5_pool",), images(1), 1))
