"""Stage `features`: prepared pictures in, outputs of the frozen network out.

Reads `data/prepared/`. Writes `data/features/block5_pool/`: shards (n, 7, 7, 512) float16, one row an example, and
`recipe.json`, how they were made. A row is keyed by the picture's content and the recipe (decoder, network, weights,
engine, precision): only what is new is computed, and a killed run goes on after its last whole shard. No view is
random and no row carries a label, so features and labels can't shift against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import prepare
from tasks.files import fingerprint, read_json, write_json
from tasks.pictures.manifest import read_examples
from tasks.pictures.shards import Array, Row, Shards, append, open_shards, reconcile
from tasks.program import run_stage
from tasks.progress import Progress
from tasks.settings import Features, Settings
from tasks.vgg.backbone import check_preprocessing
from tasks.vgg.engines import Engine, Halves, Pixels, choose_engine
from tasks.vgg.weights import SHA256, Weights, load_weights

FEATURES = "data/features"
BOUNDARY = "block5_pool"
_VERSION = 1

Network = Callable[[Iterable[tuple[str, Pixels]]], Iterator[tuple[str, Halves]]]


@dataclass(frozen=True)
class Summary:
    extracted: int
    reused: int
    pictures_per_s: float
    engine: str

    def __str__(self) -> str:
        rate = f" at {self.pictures_per_s:.1f} pictures/s by {self.engine}" if self.extracted else ""
        return f"{self.extracted} pictures extracted{rate}, {self.reused} reused"


def run(settings: Settings, workspace: Path) -> Summary:
    """Bring `data/features` in line with `data/prepared`.

    Raises:
        WeightsError: the weights are missing or are not the published ones; before anything is computed.
        IntegrityError: a shard of pictures doesn't hold the bytes that were written.
    """
    check_preprocessing()
    weights = load_weights()
    pictures = open_shards(workspace / prepare.SHARDS)
    keys = pictures.order({example.key for example in read_examples(workspace / prepare.PREPARED)})
    decoder = read_json(workspace / prepare.PREPARED / "summary.json")["fingerprint"]
    folder = workspace / FEATURES / BOUNDARY
    engine = choose_engine(settings.features, weights)
    recipe = _recipe(decoder, engine)

    shard_size = max((len(header.rows) for header in pictures.headers), default=1)
    state = reconcile(folder, keys, fingerprint(recipe), shard_size)
    reused = len(keys) - len(state.missing)
    rate = 0.0
    if state.missing:
        network = _network(settings.features, engine, weights)
        rate = _extract(folder, pictures, state.missing, network, fingerprint(recipe), shard_size, reused)
    write_json(workspace / FEATURES / "recipe.json", recipe)
    return Summary(len(state.missing), reused, round(rate, 2), str(engine))


def _network(rules: Features, engine: Engine, weights: Weights) -> Network:
    """Pictures in, features out, in the same order: on this machine, or over a Ray cluster when asked."""
    if rules.distribute == "ray":
        from tasks.vgg.cluster import extract_on_ray as extract
    else:
        from tasks.vgg.engines import extract_here as extract

    return lambda pictures: extract(engine, weights, BOUNDARY, pictures, rules.batch_size)


def _extract(
    folder: Path, pictures: Shards, missing: Sequence[str], network: Network, mark: str, shard_size: int, reused: int
) -> float:
    """Compute the missing features into shards as large as those of the pictures; gives pictures/s."""
    computed = network((key, pictures.read([key])[0]) for key in missing)
    with Progress("features", len(missing) + reused, "pictures", done=reused) as progress:

        def rows(_keys: Iterator[str]) -> Iterator[tuple[Row, Array]]:
            for key, features in computed:
                progress.advance()
                yield {"key": key}, features

        for _ in append(folder, missing, shard_size, mark, rows):
            pass
        return progress.rate


def _recipe(decoder: str, engine: Engine) -> dict[str, Any]:
    """All that the features depend on, in words that a report can show."""
    return {
        "version": _VERSION,
        "decoder": decoder,
        "boundary": BOUNDARY,
        "weights_sha256": SHA256,
        "engine": engine.name,
        "precision": engine.precision,
    }


def main() -> int:
    return run_stage("features", run)


if __name__ == "__main__":
    raise SystemExit(main())
