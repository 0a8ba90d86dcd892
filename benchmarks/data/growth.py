"""The cost of new images, and the growth of memory: `ingest` and `prepare` on sets of two sizes, and with 5 % added.

    python -m benchmarks.data.growth [--images 10000] [--small 1000]

Prints one JSON object: decoded images and seconds of the first run, of a run without new images (it starts two programs
and verifies every file's checksum and every byte of the shards), and of the run after 5 % were added; and the peak
memory of the main process of `prepare` with the small and with the large set.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.data.making import write_images
from benchmarks.extraction import read_costs
from benchmarks.workspaces import make_workspace, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--small", type=int, default=1_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder:
        print(json.dumps(measure(Path(folder), options.images, options.small), indent=2))


def measure(temporary: Path, images: int, small: int) -> dict[str, float]:
    few = workspace_of(temporary / "few", write_images(temporary / "few-images", range(small)))
    stages(few)
    source = write_images(temporary / "images", range(images))
    many = workspace_of(temporary / "many", source)
    first = stages(many)
    whole = read_costs(many, "prepare")
    idle = stages(many)
    write_images(source, range(images, images + images // 20))
    grown = stages(many)
    added = read_costs(many, "prepare")
    return {
        "images": images,
        "first_decoded": whole["decoded"],
        "first_s": round(first, 1),
        "nothing_new_s": round(idle, 1),
        "added": images // 20,
        "then_decoded": added["decoded"],
        "then_s": round(grown, 1),
        "ratio": round(first / grown, 1),
        "ratio_beyond_nothing_new": round((first - idle) / (grown - idle), 1),
        f"peak_memory_mb_{small}": read_costs(few, "prepare")["peak_memory_mb"],
        f"peak_memory_mb_{images}": whole["peak_memory_mb"],
    }


def workspace_of(folder: Path, source: Path) -> Path:
    workspace = make_workspace(folder)
    params = workspace / "params.yaml"
    params.write_text(params.read_text().replace("uri: digits", f"uri: {source}"))
    return workspace


def stages(workspace: Path) -> float:
    """Seconds of both stages, as new processes."""
    start = time.perf_counter()
    run(workspace, "tasks.ingest")
    run(workspace, "tasks.prepare")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
