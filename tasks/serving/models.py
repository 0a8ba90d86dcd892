"""The model that is served: loaded from a folder, tried, and replaced when the folder changes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.errors import PredictError, RootstockError
from tasks.images.image_size import IMAGE_SIZE_PX
from tasks.images.sources.source_cache import identity
from tasks.vgg.exports.exported_model import ExportedModel
from tasks.vgg.exports.model_folder import model_version
from tasks.vgg.exports.signature import configured_key

_VERSION_DIGITS = 12
_TOLERANCE = 1e-3
_log = logging.getLogger("tasks.serve")


@dataclass(frozen=True, eq=False)
class Served:
    """A model that may answer requests.

    Attributes:
        model: tried.
        version: the start of the SHA-256 of the list of files with their SHA-256.
        folder: it was loaded from.
    """

    model: ExportedModel
    version: str
    folder: Path


def load(folder: Path) -> Served:
    """Load a model and let it answer two images.

    Raises:
        PredictError: the folder holds no export that may be used, or the model's answers make no sense.
    """
    model = ExportedModel(folder, configured_key())
    version = model_version(folder)[:_VERSION_DIGITS]
    ramp = np.linspace(0, 255, IMAGE_SIZE_PX, dtype=np.uint8)
    images = [np.broadcast_to(one, (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3)) for one in (ramp[:, None], ramp[:, None, None])]
    for answer in model.answer(images):
        values = list(answer["probabilities"].values())
        if not all(math.isfinite(one) and one >= 0 for one in values) or abs(sum(values) - 1) > _TOLERANCE:
            raise PredictError(f"The model in {folder} gives probabilities that make no sense: {values}")
    return Served(model, version, folder)


class ModelHolder:
    """The model that answers now. `look`, called again and again, brings the next one.

    Args:
        where: gives the folder of the model; it may give another one each time.
        first: the first model.

    Attributes:
        current: replaced as a whole, so a request that has begun keeps its model.
        failures: how often a new model couldn't be loaded.
        loads: how many models answered since the start.
    """

    def __init__(self, where: Callable[[], Path], first: Served) -> None:
        self._where, self.current = where, first
        self._known = self._seen = _state(first.folder)
        self.failures, self.loads = 0, 1

    def look(self) -> None:
        """Load the model if the folder has changed and rests; a bad one is told once, and the old one stays."""
        try:
            folder = self._where()
        except RootstockError as error:
            _log.warning("The model stays: %s", error)
            return
        state, before = _state(folder), self._seen
        self._seen = state
        if state == self._known or state != before:  # as before, or somebody is writing
            return
        self._known = state
        try:
            new = load(folder)
        except (RootstockError, OSError) as error:
            self.failures += 1
            _log.warning("The new model isn't used, the old one stays: %s", error)
            return
        if new.version != self.current.version:
            _log.info("Model %s answers instead of %s.", new.version, self.current.version)
            self.loads += 1
            self.current = new


def _state(folder: Path) -> tuple[str, ...]:
    """Differs whenever a file of the folder may have changed."""
    try:
        return (str(folder), *(f"{path.name}:{identity(path)}" for path in sorted(folder.iterdir()) if path.is_file()))
    except OSError:
        return (str(folder), "gone")
