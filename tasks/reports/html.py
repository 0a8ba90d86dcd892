"""How every page is written: templates that escape all that came from data, one style, images inside of the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.reports.text import percent, visible

_JPEG_QUALITY = 86


def render(template: str, **values: Any) -> str:
    """Fill a template of this folder; it has `style`, the page's CSS, and the filters visible, percent and css_share.

    Returns:
        HTML, UTF-8 safe. An undefined name in the template is an error.
    """
    import jinja2  # not for `import tasks.prepare`: it costs more than the rest of what that imports of reports
    from markupsafe import Markup

    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(visible=visible, percent=percent, css_share=lambda share: f"{100 * share:.1f}%")
    style = Markup((folder / "page.css").read_text(encoding="utf-8"))  # noqa: S704 our own file
    return environment.get_template(template).render(style=style, **values)


def data_uri(image: npt.NDArray[np.uint8]) -> str:
    """An address that holds the image (height, width, 3), RGB.

    It is a JPEG made from pixels alone, so no metadata of the original can come along.
    """
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
