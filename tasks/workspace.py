"""Every path of the project, and decisions that a machine makes once.

A workspace is a folder with params.yaml and dvc.yaml: a person's clone, or the own folder of a deployed run. Files for
the next attempt of a run are in the folder's `.rootstock`. Files that outlive a run (copies of sources, the history of
costs, decisions, what exports reuse) are in the `.rootstock` of the clone that the folder belongs to.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tasks.files import fingerprint, read_json, write_bytes, write_json

PARAMS = "params.yaml"
LOCK = "dvc.lock"
RAW = "data/raw"
PREPARED = "data/prepared"
SHARDS = f"{PREPARED}/shards"
FEATURES = "data/features"
TRAINED = "models/trained"
EXPORT = "models/export"
REPORTS = "reports"
EVALUATION = f"{REPORTS}/evaluation.json"
METRICS = f"{REPORTS}/metrics.json"
FOREIGN = f"{REPORTS}/foreign.safetensors"
PREDICTIONS = f"{REPORTS}/predictions.safetensors"
REPORT_PAGE = f"{REPORTS}/report.html"
MAP_PAGE = f"{REPORTS}/map.html"
DATA_PAGE = f"{REPORTS}/data.html"
LEARNING_RATE_PAGE = f"{REPORTS}/learning_rate.html"
SEARCH_PAGE = f"{REPORTS}/search.html"
WATCH = f"{REPORTS}/watch"
_STATE = ".rootstock"
_CLONE = f"{_STATE}/clone"
SERVER_LOGIN = f"{_STATE}/prefect_login"


@dataclass(frozen=True)
class Workspace:
    """The paths of one workspace, all absolute.

    Attributes:
        folder: with params.yaml and dvc.yaml.
        clone: the clone that the folder belongs to. It is the folder itself, unless a deployed run works there.
    """

    folder: Path
    clone: Path

    @classmethod
    def at(cls, folder: Path) -> Self:
        """The workspace in a folder. If its clone is another folder, a note in the folder names it."""
        folder = folder.absolute()
        note = folder / _CLONE
        return cls(folder, Path(note.read_text(encoding="utf-8")) if note.exists() else folder)

    def belong_to(self, clone: Path) -> Self:
        """Note in the folder that a deployed run of this clone works in it."""
        write_bytes(self.folder / _CLONE, str(clone.absolute()).encode())
        return type(self).at(self.folder)

    # Tracked by DVC and git.
    @property
    def params(self) -> Path:
        return self.folder / PARAMS

    @property
    def lock(self) -> Path:
        return self.folder / LOCK

    @property
    def raw(self) -> Path:
        return self.folder / RAW

    @property
    def prepared(self) -> Path:
        return self.folder / PREPARED

    @property
    def shards(self) -> Path:
        return self.folder / SHARDS

    @property
    def features(self) -> Path:
        return self.folder / FEATURES

    @property
    def trained(self) -> Path:
        return self.folder / TRAINED

    @property
    def export(self) -> Path:
        return self.folder / EXPORT

    @property
    def reports(self) -> Path:
        return self.folder / REPORTS

    @property
    def evaluation(self) -> Path:
        return self.folder / EVALUATION

    @property
    def metrics(self) -> Path:
        return self.folder / METRICS

    @property
    def foreign(self) -> Path:
        return self.folder / FOREIGN

    @property
    def predictions(self) -> Path:
        return self.folder / PREDICTIONS

    # Kept for the next attempt of a run.
    @property
    def ingest_journal(self) -> Path:
        return self.folder / _STATE / "ingest.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.folder / _STATE / "checkpoints"

    @property
    def temporary(self) -> Path:
        return self.folder / _STATE / "temporary"

    @property
    def costs(self) -> Path:
        return self.folder / _STATE / "costs"

    @property
    def attempts(self) -> Path:
        """Tokens of the attempts at stages on other machines."""
        return self.folder / _STATE / "attempts"

    @property
    def partial_outputs(self) -> Path:
        """The list of outputs that were fetched only in part."""
        return self.folder / _STATE / "partial_outputs"

    @property
    def whole_lock(self) -> Path:
        """The last version of dvc.lock that was written to its end."""
        return self.folder / _STATE / "dvc.lock"

    @property
    def run_note(self) -> Path:
        """The note in a deployed run's folder: which run works in it, and how that run ended."""
        return self.folder / _STATE / "run.json"

    def written_folders(self) -> list[Path]:
        """The folders that programs write to."""
        return [self.folder / name for name in ("data", "models", REPORTS, _STATE)]

    @property
    def run_claim(self) -> Path:
        """The claim of the command that works in a person's folder."""
        return self.folder / _STATE / "run.claim"

    # Shared by all runs of a clone.
    @property
    def shared_costs(self) -> Path:
        """The costs of all runs; plans estimate from them."""
        return self.clone / _STATE / "costs"

    @property
    def source_cache(self) -> Path:
        """Downloaded and unpacked sources, and digests of local ones."""
        return self.clone / _STATE / "sources"

    @property
    def kept_exports(self) -> Path:
        """What the next export with another head needs again."""
        return self.clone / _STATE / "exports"

    @property
    def served_models(self) -> Path:
        """Copies of the versions in production, for a server."""
        return self.clone / _STATE / "served"

    @property
    def reference(self) -> Path:
        """What `tasks.watch` compares new images with."""
        return self.clone / _STATE / "reference"

    @property
    def watches(self) -> Path:
        """The results of the deployment `watch`, a folder for each source."""
        return self.clone / _STATE / "watches"

    @property
    def runs(self) -> Path:
        """The folders of deployed runs."""
        return self.clone / _STATE / "runs"

    @property
    def code(self) -> Path:
        """The code of deployed commits."""
        return self.clone / _STATE / "code"

    @property
    def tidy_claim(self) -> Path:
        """The claim that each run shares, and that `make tidy` has alone."""
        return self.clone / _STATE / "tidy.claim"

    @property
    def tidy_record(self) -> Path:
        """The outputs of the kept commits."""
        return self.clone / _STATE / "tidy.json"

    @property
    def prefect_home(self) -> Path:
        return self.clone / _STATE / "prefect"

    @property
    def server_login(self) -> Path:
        """The login of the Prefect server that `make ui` starts."""
        return self.clone / SERVER_LOGIN

    @property
    def decisions(self) -> Path:
        return self.clone / _STATE / "decisions.json"

    @contextlib.contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """A folder for the block. If the process is killed, it stays until the run's folder is removed."""
        self.temporary.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.temporary) as name:
            yield Path(name)

    def decide_once(self, name: str, facts: Mapping[str, Any], decide: Callable[[], Any]) -> Any:
        """The decision of an earlier run about the same facts; the first run decides and notes it.

        Measurements differ from run to run, but results must not depend on that. Delete `.rootstock/decisions.json` to
        measure everything again.

        Args:
            name: of the question, such as `engine`.
            facts: JSON; everything that the decision depends on, such as the machine, except the measurement.
            decide: returns the decision, JSON.
        """
        key = f"{name} {fingerprint(facts)[:16]}"
        known = self._read_decisions()
        if key not in known:
            known = {**self._read_decisions(), key: {"answer": decide(), "facts": dict(facts)}}
            write_json(self.decisions, known)
        return known[key]["answer"]

    def _read_decisions(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            known = read_json(self.decisions)
            if isinstance(known, dict):
                return known
        return {}
