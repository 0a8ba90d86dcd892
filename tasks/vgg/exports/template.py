"""The SavedModel and the LiteRT file, built once for a backbone: only the head's numbers differ from model to model.

A template is built with a head of known random numbers, so their places in the files can be found. Every export, also
the first one, writes the trained head's numbers to these places. So it makes no difference to the bytes whether the
template was kept from an earlier run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors.numpy import save_file

from tasks.errors import ExportError
from tasks.vgg.exports.kept import Files, Kept
from tasks.vgg.exports.tensorflow_process import CURE, BuildProcess
from tasks.vgg.head import Floats, Head
from tasks.vgg.weights import Weights, digest

LITERT = "model.tflite"
_SAVED_MODEL = "saved_model"
_GRAPH = f"{_SAVED_MODEL}/saved_model.pb"
_PLACES = ".places.json"


@dataclass(frozen=True)
class Outline:
    """All that a template depends on beside the weights of the backbone.

    Attributes:
        head: any head with the same pooling, layers and shapes; its numbers don't matter.
        classes: names, in the order of the probabilities.
        background_rgb: what shows through transparent pixels.
        max_pixels: an encoded image with more is refused.
        test_time_augmentation: predict the mean over an image and its mirror image.
        litert: whether there is a LiteRT file.
    """

    head: Head
    classes: tuple[str, ...]
    background_rgb: tuple[int, int, int]
    max_pixels: int
    test_time_augmentation: bool
    litert: bool

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "head": self.head.outline(),
            "shapes": {name: list(value.shape) for name, value in self.head.tensors().items()},
            "classes": list(self.classes),
            "background_rgb": list(self.background_rgb),
            "max_pixels": self.max_pixels,
            "test_time_augmentation": self.test_time_augmentation,
            "litert": self.litert,
        }


class Template:
    """The template of an outline and a backbone. If no earlier run has kept it, a process builds it in the block.

    Args:
        outline: of the models.
        weights: of the backbone.
        kept: where templates are kept; None: nowhere, because this backbone was trained further, so no other model
            has it.
    """

    def __init__(self, outline: Outline, weights: Weights, kept: Kept | None) -> None:
        self._outline, self._weights, self._kept = outline, weights, kept
        self._facts = {**outline.facts(), "weights": digest(weights)} if kept else {}
        self._files = kept.find("template", self._facts) if kept else None
        self._stack = ExitStack()

    @property
    def is_kept(self) -> bool:
        """Whether an earlier run has built and checked it."""
        return self._files is not None

    def __enter__(self) -> Self:
        if self._files is None:
            with ExitStack() as stack:
                self._process = stack.enter_context(BuildProcess())
                begin(self._process, self._outline, self._weights)
                self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def fill(self, head: Head, folder: Path) -> Iterator[Path]:
        """Write the models with the head's numbers to a folder. Yields the path of each as soon as it is there.

        Raises:
            ExportError: the process failed, or a file doesn't contain each of the head's tensors once.
        """
        new: dict[str, bytes] = {}
        for model in (_SAVED_MODEL, LITERT) if self._outline.litert else (_SAVED_MODEL,):
            if self._files is None:
                new |= finish(self._process, model, self._outline)
            write_filled(self._files or new, model, head, folder)
            yield folder / model
        if self._files is None and self._kept:
            self._kept.add("template", self._facts, new)


def begin(process: BuildProcess, outline: Outline, weights: Weights) -> None:
    """Let the process build the files of a template."""
    tensors = process.files / "tensors.safetensors"
    known = _known_head(outline.head)
    named = {**weights, **known.tensors()}
    save_file({name: np.ascontiguousarray(value) for name, value in named.items()}, tensors)
    process.ask({**outline.facts(), "tensors": str(tensors), "folder": str(process.files)})


def finish(process: BuildProcess, model: str, outline: Outline) -> Files:
    """Wait until the process has written a model of the template: its files, by name."""
    path = process.wait_for(model)
    paths = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    files = {one.relative_to(process.files).as_posix(): one.read_bytes() for one in paths}
    return {**files, f"{model}{_PLACES}": json.dumps(_find_places(files, outline)).encode()}


def write_filled(template: Files, model: str, head: Head, folder: Path) -> None:
    """Write the files of one of the template's models with a head's numbers."""
    places, tensors = json.loads(template[f"{model}{_PLACES}"]), head.tensors()
    for name in (one for one in template if one == model or one.startswith(f"{model}/")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(template[name])
            for tensor, transposed, offset in places.get(name, []):
                file.seek(offset)
                file.write(_bytes(tensors[tensor], transposed))


def _known_head(head: Head) -> Head:
    """The head with other numbers, the same each time."""
    rng = np.random.default_rng(0)

    def draw(values: Floats) -> Floats:
        return rng.standard_normal(values.shape, np.float32)

    layers = (replace(layer, kernel=draw(layer.kernel), bias=draw(layer.bias)) for layer in head.layers)
    return Head(head.pooling, tuple(layers))


def _find_places(files: Files, outline: Outline) -> dict[str, list[tuple[str, bool, int]]]:
    """For each file with the head: the name of a tensor, whether its axes are swapped, and where its bytes begin."""
    tensors = _known_head(outline.head).tensors()
    return {
        name: [(tensor, *_find(name, files[name], tensor, values)) for tensor, values in tensors.items()]
        for name in (_GRAPH, LITERT)
        if name in files
    }


def _find(name: str, content: bytes, tensor: str, values: Floats) -> tuple[bool, int]:
    found = [
        (transposed, offset)
        for transposed in ([False, True] if values.ndim == 2 else [False])  # LiteRT's dense layers have (units, inputs)
        for offset in _offsets(content, _bytes(values, transposed))
    ]
    if len(found) != 1:
        raise ExportError(f"{name} contains the tensor {tensor} of the head {len(found)} times, expected once. {CURE}")
    return found[0]


def _offsets(content: bytes, part: bytes) -> Iterator[int]:
    offset = content.find(part)
    while offset >= 0:
        yield offset
        offset = content.find(part, offset + 1)


def _bytes(values: Floats, transposed: bool) -> bytes:
    return np.ascontiguousarray(values.T if transposed else values, dtype="<f4").tobytes()
