"""Every HTML page: Jinja templates that escape what came from data, one style sheet, nothing loaded from outside."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.reports.text import percent, visible

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent


def render(template: str, **values: Any) -> str:
    """Fill a template of this folder, which extends `base.html.jinja`.

    Returns:
        HTML, UTF-8 safe. An undefined name in the template is an error.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    import jinja2  # imported here because it would slow down `import tasks.prepare`
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(visible=visible, percent=percent, css_share=lambda share: f"{100 * share:.1f}%")
    environment.globals["style"] = Markup((_FOLDER / "page.css").read_text(encoding="utf-8"))  # noqa: S704 our own file
    return environment
