"""The SavedModel and the LiteRT file without their numbers: all of them that differ only in these share a template.

A template is built with known random numbers, so their places in the files can be found. Every export, also the first
one, writes the trained model's numbers to these places. So it makes no difference to the bytes whether the template was
kept from an earlier run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tasks.vgg.exports.kept import Files, Kept
from tasks.vgg.exports.places import LITERT, SAVED_MODEL, Tensors, known_tensors, parts_of, put_in, take_out
from tasks.vgg.exports.tensorflow_process import BuildProcess
from tasks.vgg.head import Head
from tasks.vgg.weights import Weights

_PLACES = ".places.json"


@dataclass(frozen=True)
class Outline:
    """All that a template depends on.

    Attributes:
        head: any head with the same pooling, layers and shapes; its numbers don't matter.
        weights: of any backbone with the same shapes.
        classes: names, in the order of the probabilities.
        background_rgb: what shows through transparent pixels.
        max_pixels: an encoded image with more is refused.
        test_time_augmentation: predict the mean over an image and its mirror image.
        litert: whether there is a LiteRT file.
    """

    head: Head
    weights: Weights
    classes: tuple[str, ...]
    background_rgb: tuple[int, int, int]
    max_pixels: int
    test_time_augmentation: bool
    litert: bool

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "head": self.head.outline(),
            "shapes": {name: list(value.shape) for name, value in {**self.weights, **self.head.tensors()}.items()},
            "classes": list(self.classes),
            "background_rgb": list(self.background_rgb),
            "max_pixels": self.max_pixels,
            "test_time_augmentation": self.test_time_augmentation,
            "litert": self.litert,
        }


class Template:
    """The template of an outline. If no earlier run has kept it, a process builds it in the block.

    Args:
        outline: of the models.
        kept: where templates are kept.
    """

    def __init__(self, outline: Outline, kept: Kept) -> None:
        self._facts, self._kept = outline.facts(), kept
        self._files = kept.find("template", self._facts)
        self._stack = ExitStack()

    @property
    def is_kept(self) -> bool:
        """Whether an earlier run has built and checked it."""
        return self._files is not None

    def __enter__(self) -> Self:
        if self._files is None:
            with ExitStack() as stack:
                self._process = stack.enter_context(BuildProcess())
                self._process.ask({**self._facts, "folder": str(self._process.files)})
                self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def fill(self, tensors: Tensors, folder: Path) -> Iterator[Path]:
        """Write the models with numbers to a folder. Yields the path of each as soon as it is there.

        Args:
            tensors: of the backbone and of the head.
            folder: is there.

        Raises:
            ExportError: the process failed, or a file doesn't contain each tensor once.
        """
        new: dict[str, bytes] = {}
        for model in (SAVED_MODEL, LITERT) if self._facts["litert"] else (SAVED_MODEL,):
            if self._files is None:
                known = parts_of(model, known_tensors(self._facts["shapes"]))  # while the process works
                new |= without_numbers(self._process.wait_for(model), known)
            write_filled(self._files or new, model, tensors, folder)
            yield folder / model
        if self._files is None:
            self._kept.add("template", self._facts, new)


def without_numbers(model: Path, known: Mapping[str, Mapping[str, bytes]]) -> Files:
    """The files of a template, by name, from those of a model that was built of known tensors.

    Args:
        model: file or folder.
        known: `parts_of` the known tensors.
    """
    paths = [model] if model.is_file() else sorted(one for one in model.rglob("*") if one.is_file())
    files, places = {}, {}
    for path in paths:
        name = path.relative_to(model.parent).as_posix()
        files[name], places[name] = take_out(name, path.read_bytes(), known.get(name, {}))
    return {**files, f"{model.name}{_PLACES}": json.dumps(places).encode()}


def write_filled(template: Files, model: str, tensors: Tensors, folder: Path) -> None:
    """Write the files of one of the template's models with numbers."""
    for name, places in json.loads(template[f"{model}{_PLACES}"]).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.writelines(put_in(name, template[name], places, tensors))
