"""Checkpoints: the state of a training at a step, in files that are complete or absent.

A file holds arrays and JSON only; its name is the start of the SHA-256 of its bytes. The checkpoint before is kept, so
a damaged file costs only a part of the training. Checkpoints of other settings or other images are not used.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors.numpy import load, save

from tasks.files import atomic_file, fingerprint, sha256_hex, sweep_temporaries
from tasks.vgg.head import Floats

_NAME_DIGITS = 16
_KEPT = 2


@dataclass
class State:
    """Everything that the rest of a training depends on.

    Attributes:
        refitting: whether validation has chosen, and the phases that improved something are trained again.
        phase: number of the phase.
        epoch: of the phase, counted from 0; epochs before it are done.
        step: of the epoch; steps before it are done.
        sums: of the epoch so far: `loss`, the mean over its steps, and `correct`, the images predicted correctly.
        parts: pieces that a batch is cut into.
        history: a record for each finished epoch before the choice.
        refit_history: a record for each one after it.
        start_loss: validation loss before the phase; None: not measured.
        best_loss: lowest one of the phase so far, of an epoch or of a mean of epochs; None: no epoch is done.
        averaged: the epochs, counted from 1, whose mean has it.
        waited: epochs since the last of them.
        at_chance: epochs in a row at chance.
        planned: epochs of the phase that the time allows; None: all.
        phase_s: seconds that the phase took so far.
        spent_s: seconds that all phases took so far.
        notes: one for each phase that was finished before the choice.
        tensors: `now/...` weights, `optimizer/...`, `best/...`, `start/...` (weights when the phase began), and in a
            refit `chosen/...` (by validation).
    """

    refitting: bool = False
    phase: int = 0
    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=lambda: {"loss": 0.0, "correct": 0.0})
    parts: int = 1
    history: list[dict[str, Any]] = field(default_factory=list)
    refit_history: list[dict[str, Any]] = field(default_factory=list)
    start_loss: float | None = None
    best_loss: float | None = None
    averaged: list[int] = field(default_factory=list)
    waited: int = 0
    at_chance: int = 0
    planned: int | None = None
    phase_s: float = 0.0
    spent_s: float = 0.0
    notes: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, Floats] = field(default_factory=dict)

    @property
    def best_epoch(self) -> int:
        """The last epoch that the best weights need, counted from 1; 0: none is done."""
        return max(self.averaged, default=0)

    def improved_phases(self) -> int:
        """Finished phases that improved something; they are the first ones."""
        return sum(note["best_epoch"] > 0 for note in self.notes)

    def following(self) -> State:
        """The position at the start of the next phase."""
        kept = ("refitting", "parts", "history", "refit_history", "notes", "spent_s")
        plain = {name: getattr(self, name) for name in kept}
        chosen = {name: value for name, value in self.tensors.items() if name.startswith("chosen/")}
        return State(phase=self.phase + 1, tensors=chosen, **plain)

    def group(self, name: str) -> dict[str, Floats]:
        """The tensors below `name/`."""
        return {
            key.removeprefix(f"{name}/"): value for key, value in self.tensors.items() if key.startswith(f"{name}/")
        }

    def keep(self, name: str, tensors: Mapping[str, Floats]) -> None:
        """Replace the tensors below `name/`."""
        others = {key: value for key, value in self.tensors.items() if not key.startswith(f"{name}/")}
        self.tensors = {**others, **{f"{name}/{key}": value for key, value in tensors.items()}}


class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: where they are.
        identity: everything that the training depends on, JSON; checkpoints with another identity are removed.
        interval_s: seconds after which `due` is true.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], interval_s: float) -> None:
        kept = [one.name for one in fields(State)]  # another version of this program may keep other things
        self._folder, self._identity, self._interval_s = folder, fingerprint({**identity, "state": kept}), interval_s
        self._saved = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._saved >= self._interval_s

    def save(self, state: State) -> None:
        """Write the state; the newest two files stay."""
        plain = {one.name: getattr(state, one.name) for one in fields(state) if one.name != "tensors"}
        content = save(state.tensors, {"identity": self._identity, "state": json.dumps(plain)})
        serial = max((_serial(path) for path in self._files()), default=0) + 1
        with atomic_file(self._folder / f"{serial:09d}-{sha256_hex(content)[:_NAME_DIGITS]}.safetensors") as file:
            file.write(content)
        for path in self._files()[:-_KEPT]:
            path.unlink()
        self._saved = time.monotonic()

    def load(self) -> State | None:
        """The newest undamaged state of this training; reports the damaged ones that it skips."""
        if not self._folder.is_dir():
            return None
        sweep_temporaries(self._folder)
        for path in reversed(self._files()):
            content = path.read_bytes()
            if not path.stem.endswith(sha256_hex(content)[:_NAME_DIGITS]):
                print(f"The checkpoint {path} is damaged; the one before it is used.", file=sys.stderr)
                continue
            metadata = _metadata(content)
            if metadata["identity"] == self._identity:
                return State(**json.loads(metadata["state"]), tensors=load(content))
        self.clear()
        return None

    def clear(self) -> None:
        """Remove all of them: the training is done."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.safetensors")) if self._folder.is_dir() else []


def _serial(path: Path) -> int:
    return int(os.path.basename(path).split("-")[0])  # noqa: PTH119


def _metadata(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return metadata
