"""The page of all reason codes: why an image was refused or left out, and what a note means."""

from __future__ import annotations

import jinja2

from handbook.markdown import NOTE, code, table
from handbook.what_runs_again import PROJECT
from tasks.images.reason_codes import PASSING, RefusalCode
from tasks.settings import Prepare

PAGE = PROJECT / "docs/reference/reason-codes.md"
NOTES = ("exif_oriented", "first_frame_of_several", "few_tones")
TEXT = """# All reason codes

{note}Every file of a source is accepted, quarantined or excluded; `reports/data.html` shows how many and which.
[Which files are accepted?](../images.md#which-files-are-accepted) explains the rules.

## Quarantined

These images are in `data/prepared/quarantine.parquet`. `tasks.predict`, `tasks.score` and the server give the same codes as `error`.

{quarantined}
## Excluded

These entries are in `data/raw/manifest.parquet` or, if they repeat another image, in `data/prepared/duplicates.parquet`.

{excluded}
## Notes

An accepted image can have notes, in `data/prepared/examples.parquet`: these, and each quality code of the quarantine that
`prepare.quarantine_issues` doesn't name.

{notes}"""


def page() -> str:
    meanings = read_meanings()
    refused = [str(one) for one in RefusalCode]
    left = [one for one in meanings if one not in refused and one not in NOTES]
    rows = [(code(one), meanings[one], _settings(one)) for one in refused]
    return TEXT.format(
        note=NOTE,
        quarantined=table(("code", "meaning", "setting"), rows),
        excluded=table(("code", "meaning"), [(code(one), meanings[one]) for one in sorted(left)]),
        notes=table(("note", "meaning"), [(code(one), meanings[one]) for one in NOTES]),
    )


def read_meanings() -> dict[str, str]:
    """Reason code -> meaning, as the data report shows it."""
    loader = jinja2.FileSystemLoader(PROJECT / "tasks/reports")
    environment = jinja2.Environment(loader=loader, autoescape=True)
    for name in ("visible", "percent", "css_share"):
        environment.filters[name] = str  # the macros need them, the meanings don't
    module = environment.get_template("macros.html.jinja").module
    return dict(module.meanings)  # type: ignore[attr-defined]


def _settings(refusal: str) -> str:
    """The settings of `prepare` that decide about a code: their names contain a word of it, or `OTHERS` names them."""
    if refusal in {str(one) for one in PASSING}:
        return ""
    names = [one for one in Prepare.model_fields if one.startswith(refusal) or one in OTHERS.get(refusal, ())]
    return ", ".join(code(f"prepare.{one}") for one in names)


OTHERS = {
    "too_many_pixels": ("max_pixels",),
    "too_small": ("min_side_px",),
    "extreme_aspect": ("max_aspect_ratio",),
    "low_information": ("min_content_fraction", "min_entropy_bits"),
    "dark": ("quarantine_issues",),
    "overexposed": ("quarantine_issues",),
    "low_contrast": ("quarantine_issues",),
    "blurred": ("quarantine_issues",),
    "single_colour": ("quarantine_issues",),
}
"""Reason code -> settings whose names don't begin with it."""
