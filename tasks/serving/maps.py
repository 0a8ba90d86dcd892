"""The activation map of an image, for the page."""

from __future__ import annotations

import logging
from threading import Lock

import numpy as np

from tasks.errors import PredictError
from tasks.images.decoding import Pixels
from tasks.serving.models import Served
from tasks.vgg.exports.explained_model import ExplainedModel
from tasks.vgg.exports.model_folder import MODEL, check_model, model_version

_log = logging.getLogger("tasks.serve")


class Maps:
    """Loads a second copy of the network when the first map is asked for, and for each new model."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: tuple[Served, ExplainedModel | None] | None = None

    def places(self, served: Served, pixels: Pixels) -> list[list[float]] | None:
        """Rows of shares, 0 to 1: where the image speaks for the answer. None: this model can't tell."""
        with self._lock:
            if self._known is None or self._known[0] is not served:
                self._known = (served, _load(served))
            model = self._known[1]
            if model is None:
                return None
            values = np.maximum(model.places(pixels), 0)
            shown: list[list[float]] = (values / max(float(values.max()), 1e-12)).round(3).tolist()
            return shown


def _load(served: Served) -> ExplainedModel | None:
    try:
        content = check_model(served.folder)[MODEL]
        if not model_version(served.folder).startswith(served.version):
            return None  # the folder holds the next model already
        return ExplainedModel(content)
    except (OSError, ValueError, PredictError) as error:
        _log.info("No activation maps: %s", error)
        return None
