"""Checks the last version against the source: every entry is accounted for, and has the right label."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from tests.soak.versions import Store, read_file


def tables(store: Store, lock: str) -> dict[str, list[dict[str, Any]]]:
    """The tables of a version; a missing one is empty."""
    found = {}
    for path in ("raw/manifest", "prepared/examples", "prepared/quarantine", "prepared/duplicates"):
        data = read_file(store, lock, f"data/{path}.parquet")
        found[path.partition("/")[2]] = pq.read_table(io.BytesIO(data)).to_pylist() if data else []
    return found


def unbalanced(found: Mapping[str, list[dict[str, Any]]], labels: Mapping[str, str], junk: int) -> list[str]:
    """What doesn't fit.

    Args:
        found: the result of `tables`.
        labels: path -> label of each image at the source.
        junk: how many other entries are at the source.
    """
    manifest = found["manifest"]
    problems = []
    if len(manifest) != len(labels) + junk:
        problems.append(f"the manifest has {len(manifest)} entries, the source {len(labels) + junk}")
    seen = {row["path"]: row["label"] for row in manifest if not row["excluded"] and not row["refused"]}
    problems += [f"{path} is not in the manifest" for path in sorted(labels.keys() - seen.keys())]
    problems += [f"{path} is no image of the source" for path in sorted(seen.keys() - labels.keys())]
    problems += [
        f"{path} has the label {seen[path]}, not {labels[path]}"
        for path in sorted(seen.keys() & labels.keys())
        if seen[path] != labels[path]
    ]
    accepted, refused = found["examples"], found["quarantine"]
    problems += [
        f"{row['path']} was accepted as {row['label']}" for row in accepted if labels.get(row["path"]) != row["label"]
    ]
    left_out = {row["path"] for row in found["duplicates"] if row["outcome"].startswith("left_out")}
    excluded = sum(bool(row["excluded"]) for row in manifest) + len(left_out)
    if len(accepted) + len(refused) + excluded != len(manifest):
        problems.append(
            f"{len(accepted)} accepted + {len(refused)} refused + {excluded} excluded are not {len(manifest)}"
        )
    return problems
