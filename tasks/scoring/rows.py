"""Rows of scored images, and the files that hold them: Parquet, JSON lines or CSV. The same rows write the same bytes.

A row has the columns of `COLUMNS` and, for each class, its probability; in Parquet also the features, if they are kept.
A missing value is null; in JSON lines its key is missing, in CSV its field is empty.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.files import atomic_file, stream_table, write_table

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("path", "sha256", "label", "probability", "unsure", "foreign", "foreign_score", "error", "detail")
"""`error` is a reason code, such as `truncated`, and `detail` explains it; both are null for a scored image."""
FORMATS = ("parquet", "jsonl", "csv")
FEATURES = "features"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Row = dict[str, Any]


@dataclass(frozen=True)
class RowFiles:
    """Writes and reads files of rows.

    Attributes:
        form: one of `FORMATS`.
        classes: names, in the order of the model.
        features: how many numbers an image's features have, 0 if they aren't kept.
    """

    form: str
    classes: tuple[str, ...]
    features: int = 0

    @property
    def suffix(self) -> str:
        return f".{self.form}"

    def write(self, path: Path, rows: Sequence[Row]) -> None:
        """Write a file, complete or not at all."""
        if self.form == "parquet":
            write_table(path, rows, self._schema())
            return
        text = _as_lines(rows) if self.form == "jsonl" else self._as_csv(rows)
        with atomic_file(path) as file:
            file.write(text.encode())

    def read(self, path: Path) -> Iterator[Row]:
        """The rows of a file, without probabilities of the other classes and without features.

        Raises:
            IntegrityError: a Parquet file is damaged.
            ValueError: another file is.
        """
        if self.form == "parquet":
            yield from stream_table(path, COLUMNS)
        elif self.form == "jsonl":
            for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
                yield {**dict.fromkeys(COLUMNS), **json.loads(line)}
        else:
            with path.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file, strict=True):
                    yield {name: _value(name, row[name]) for name in COLUMNS}

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        kinds = {"unsure": pa.bool_(), "foreign": pa.bool_()}
        kinds |= dict.fromkeys(("probability", "foreign_score"), pa.float32())
        fields = [pa.field(name, kinds.get(name, pa.string())) for name in COLUMNS]
        fields.append(pa.field("probabilities", pa.struct([(name, pa.float32()) for name in self.classes])))
        if self.features:
            fields.append(pa.field(FEATURES, pa.list_(pa.float16(), self.features)))
        return pa.schema(fields)

    def _as_csv(self, rows: Sequence[Row]) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*COLUMNS, *(f"probability of {name}" for name in self.classes)])
        for row in rows:
            each = row.get("probabilities") or {}
            values = [*(row.get(name) for name in COLUMNS), *(each.get(name) for name in self.classes)]
            writer.writerow([_field(value) for value in values])
        return text.getvalue()


def _as_lines(rows: Sequence[Row]) -> str:
    kept = ({name: value for name, value in row.items() if value is not None and name != FEATURES} for row in rows)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)


def _field(value: Any) -> Any:
    """A field of a CSV file; a spreadsheet must not take a name for a formula, so an apostrophe comes before it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _value(name: str, field: str) -> Any:
    if field == "":
        return None
    if name in ("unsure", "foreign"):
        return field == "true"
    return float(field) if name in ("probability", "foreign_score") else field
