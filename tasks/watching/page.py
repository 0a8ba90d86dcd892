"""The page `watch.html`, and the sentence that says whether new images have changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.images.decoding import Pixels
from tasks.markdown_tables import markdown_table
from tasks.reports import html
from tasks.reports.data_uris import thumbnail
from tasks.reports.text import markdown_cell, percent, visible, without_credentials

WORDS = {
    "probabilities": "the model's probabilities",
    "features": "what the images look like to VGG16",
    "foreign": "more images belong to none of the classes",
}
"""What each test compares."""
_SIDE_PX = 112


def describe(found: Mapping[str, Any]) -> str:
    """One sentence: whether there is an alarm, by which tests, and the estimated accuracy."""
    n, source = found["images"], visible(without_credentials(found["source"]), 80)
    estimate, tested = (percent(found["accuracy"][name]) for name in ("estimate", "reference"))
    accuracy = f"Estimated accuracy {estimate}, {tested} when tested."
    alarms = [WORDS[test["name"]] for test in found["tests"] if test["alarm"]]
    if alarms:
        return f"ALARM: {n:,} images of {source} differ from the test images ({'; '.join(alarms)}). {accuracy}"
    return f"No alarm: {n:,} images of {source} look like the test images. {accuracy}"


def render_watch(found: Mapping[str, Any]) -> str:
    """Write the page.

    Args:
        found: what `watch.json` holds.

    Returns:
        HTML, UTF-8 safe.
    """
    source = visible(without_credentials(found["source"]), 200)
    return html.render("watch.html.jinja", found=found, words=WORDS, source=source)


def watch_markdown(found: Mapping[str, Any]) -> str:
    """The page's most important parts in Markdown, with images."""
    tests = [
        (WORDS[test["name"]], f"{test['p_value_corrected']:.3f}", "alarm" if test["alarm"] else "")
        for test in found["tests"]
    ]
    images = [f"![{markdown_cell(one['label'], 40)}]({one['image']})" for one in found["most"] if one["image"]]
    parts = [markdown_cell(describe(found)), markdown_table(("test", "p-value, corrected", ""), tests)]
    return "\n\n".join([*parts, *(["The most foreign images:", " ".join(images)] if images else [])])


def small(pixels: Pixels) -> str:
    """An image as `watch.json` holds it: a `data:` address."""
    return thumbnail(pixels, _SIDE_PX)
