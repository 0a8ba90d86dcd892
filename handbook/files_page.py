"""The page of all files that a run leaves, with their columns and keys. Tests compare them with what stages write."""

from __future__ import annotations

from dataclasses import dataclass, field

from handbook.markdown import NOTE, code, table
from handbook.what_runs_again import PROJECT

PAGE = PROJECT / "docs/reference/files.md"
TEXT = """# All files, and what is in them

{note}DVC tracks `data/`, `models/` and `reports/`; only `reports/metrics.json` is in git. What you may delete: [How do I free disk space?](../disk.md)
Tables are Parquet: `pandas.read_parquet`, or any other reader. All JSON files are sorted and end with a newline.

## Folders

{folders}{tables}"""


@dataclass(frozen=True)
class File:
    path: str
    made_by: str
    what: str
    fields: dict[str, str] = field(default_factory=dict)
    """Column or key -> meaning."""


FOLDERS = {
    "`data/raw/*.tar`": "`ingest`: packs of the original bytes; each file is named by its SHA-256",
    "`data/prepared/shards/`": "`prepare`: 256 images of 224x224x3 uint8 each, RGB (safetensors)",
    "`data/features/block5_pool/`": "`features`: VGG16's outputs for all images, in 16 bit",
    "`data/features/for/<strategy>/`": "`features`: what only this strategy reads, such as augmented versions",
    "`models/trained/<strategy>/`": "`train`: `model.safetensors` and `model.json`, what was chosen and why",
    "`models/export/`": "`export`: the champion in every format; [what is inside](../verification.md#what-is-inside-each-format)",
    "`reports/report.html`, `map.html`, `data.html`": "[pages for people](../results.md), each one file",
    "`reports/plots/*.csv`": "`evaluate`: what `dvc plots show` draws",
    "`reports/foreign.safetensors`": "`evaluate`: what tells [images of none of the classes](../foreign.md)",
    "`reports/predictions.safetensors`": "`evaluate`: what the champion predicts for the test images, for the gate",
    "`.dvc/cache/`": "DVC: every version of all of these",
    "`.rootstock/`": "what isn't tracked: [which folder is for what](../disk.md)",
}
ABOUT = "a JSON object: what the source tells about the image, from columns `about_...` of a table"
FILES = (
    File(
        "data/raw/manifest.parquet",
        "ingest",
        "every entry of the source",
        {
            "path": "at the source",
            "label": "the class; empty if there is none",
            "split": "`train`, `validation` or `test` if the source assigns one",
            "key": "SHA-256 of the bytes; empty if excluded or refused",
            "excluded": "why it was left out: a [reason code](reason-codes.md)",
            "version": "changes whenever the bytes may have changed, if the source can tell",
            "group": "images of one group stay in one split",
            "refused": "why it was quarantined without being read in full: a reason code",
            "detail": "explains the code",
            "about": ABOUT,
        },
    ),
    File("data/raw/source.json", "ingest", "what the source is; more keys for TFDS, such as the licence", {"uri": ""}),
    File(
        "data/prepared/examples.parquet",
        "prepare",
        "accepted images",
        {
            "key": "SHA-256 of the original bytes",
            "path": "at the source",
            "label": "the class",
            "split": "`train`, `validation` or `test`",
            "width_px": "of the original",
            "height_px": "of the original",
            "format": "such as `JPEG`, from the bytes",
            "notes": "[notes](reason-codes.md#notes), with commas",
            "group": "as in the manifest",
            "about": ABOUT,
        },
    ),
    File(
        "data/prepared/quarantine.parquet",
        "prepare",
        "refused images",
        {
            "path": "at the source",
            "sha256": "of the bytes; empty if they weren't read",
            "label": "the class",
            "code": "a [reason code](reason-codes.md#quarantined)",
            "detail": "explains it",
        },
    ),
    File(
        "data/prepared/duplicates.parquet",
        "prepare",
        "images that repeat another one",
        {
            "path": "of the image",
            "label": "its class",
            "split": "its split at the source, if any",
            "of_path": "the image that it repeats",
            "of_split": "that one's split at the source",
            "kind": "`same_bytes`, `same_pixels`, `near` or `group`",
            "outcome": "`left_out`, `left_out_as_leak`, `kept_together` or `kept_apart`",
        },
    ),
    File(
        "data/prepared/splits.parquet",
        "prepare",
        "the memory of all splits, for the next run",
        {"key": "SHA-256", "split": "its split", "apart": "whether its near duplicates are not kept together with it"},
    ),
    File(
        "data/prepared/summary.json",
        "prepare",
        "counts",
        {
            "discovered": "entries of the source",
            "accepted": "images that are used",
            "quarantined": "images that were refused",
            "quarantined_by_code": "the same, by reason code",
            "excluded": "entries that were left out, by reason code",
            "classes": "images by class and split",
            "duplicates": "by kind and outcome",
            "near_duplicates": "large sets, and those of several classes",
            "near_duplicate_bits": "the setting",
            "notes": "images by note",
            "fractions": "the shares that were drawn",
            "given_splits": "splits that the source has",
            "split_rules": "a fingerprint of the rules of splitting",
            "fingerprint": "of the recipe of decoding",
            "source": "as in `source.json`",
        },
    ),
    File(
        "reports/data.json",
        "prepare",
        "the data report, for programs",
        {
            "source": "its address",
            "version": "a fingerprint of all images and labels",
            "discovered": "entries of the source",
            "accepted": "images that are used",
            "quarantined": "images that were refused",
            "quarantined_by_code": "by reason code",
            "quarantine": "examples of each code",
            "excluded": "by reason code",
            "classes": "images by class and split",
            "smallest": "the smallest class",
            "largest": "the largest class",
            "formats": "images by format",
            "shorter_sides": "images by size",
            "shorter_side_px": "quantiles of the shorter side",
            "duplicates": "counts and examples",
            "label_conflicts": "images in two classes",
            "notes": "examples of each note",
            "warnings": "what a person should look at",
            "changes": "since the last version: added, removed, relabelled, renamed, moved; null at first",
            "fractions": "the shares that were drawn",
            "given_splits": "splits that the source has",
            "about": "what a table tells besides",
        },
    ),
    File(
        "reports/metrics.json",
        "evaluate",
        "headline metrics; [its form](../results.md#what-can-programs-read)",
        {"champion": "the strategy that is exported", "strategies": "recipe, seconds, validation and test metrics"},
    ),
    File(
        "reports/evaluation.json",
        "evaluate",
        "all the data of the report",
        {
            "champion": "the strategy that is exported",
            "champion_rule": "why, in words",
            "classes": "their names, in the order of the probabilities",
            "strategies": "of each: metrics with intervals on validation and test, training, backbone",
            "comparisons": "pairs of strategies: difference, interval, p-value",
            "choice": "on how many images of validation, or of folds, the champion was chosen; how sure the choice is: what other images would have chosen",
            "compare": "what `compare.budget_minutes` left out",
            "balanced": "whether every class counts the same in choices",
            "recalibration": "how probabilities were corrected, and what that changed",
            "calibration": "accuracy by confidence",
            "answers": "thresholds below which the model is [unsure](../how-sure.md)",
            "foreign": "how [foreign images](../foreign.md) are told, and how well",
            "mistakes": "the worst mistakes",
            "why": "what in an image speaks for which class",
            "weak": "[kinds of images](../results.md#where-is-it-weak) with more mistakes",
            "what_if": "accuracy on worse copies; null unless `evaluate.shift_images` is set",
            "data": "as in `data/prepared/summary.json`",
        },
    ),
    File(
        "models/export/export.json",
        "export",
        "the description that each format contains; [its keys](../verification.md#what-is-inside-each-format)",
    ),
    File(
        "models/export/digests.json",
        "export",
        "path -> SHA-256 of each file; [checked before use](../verification.md)",
    ),
    File(
        "models/export/parity.json",
        "export",
        "how much each format differs from the trained model",
        {"formats": "of each: MB, images, median and largest difference, other answers"},
    ),
)
SCORES = (
    "`tasks.score` writes parts of rows and `scores.json` ([columns](../scoring.md)); `tasks.watch` writes `reports/watch/watch.json` "
    "([what it says](../watching.md)); `tasks.predict` prints the same keys as JSON lines.\n"
)


def page() -> str:
    tables = ""
    for file in FILES:
        tables += f"\n## {file.path}\n\nMade by `{file.made_by}`: {file.what}.\n"
        if file.fields:
            tables += "\n" + table(("field", "meaning"), [(code(name), text) for name, text in file.fields.items()])
    return TEXT.format(
        note=NOTE,
        folders=table(("place", "what"), list(FOLDERS.items())),
        tables=f"{tables}\n## Scores\n\n{SCORES}",
    )
