"""A hook of MkDocs: pages link to files of the project, as on GitHub, so the site contains these files, too."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).parents[1]
FOLDER = "project"
"""Where the site has files from outside of docs/."""
LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the project to which pages link."""
    for page in files.documentation_pages():
        for target in LINK.findall(page.content_string):
            name = outside(page.src_uri, target[0])
            place = f"{FOLDER}/{name}"
            if name and not files.get_file_from_path(place):
                files.append(File.generated(config, place, content=text_of(name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Let links to files of the project lead to the copies."""
    here = posixpath.dirname(page.file.src_uri)

    def lead(found: re.Match[str]) -> str:
        name = outside(page.file.src_uri, found[1])
        if not name:
            return found[0]
        return f"]({posixpath.relpath(f'{FOLDER}/{name}', here or '.')}{found[2] or ''})"

    return LINK.sub(lead, markdown)


def on_page_content(html: str, **_: object) -> str:
    """Let wide tables be scrolled by keyboard, too."""
    return html.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")


def on_post_page(output: str, **_: object) -> str:
    """Name the theme's search box, so that screen readers can tell what opens."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')


def outside(page: str, target: str) -> str:
    """The path of a link's target from the project's folder, if it is not in docs/; otherwise an empty string."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return "" if path.startswith(("docs/", "../", "/")) or path == "docs" else path


def text_of(name: str) -> str:
    """A file's text; links in a page lead to where the site has that page."""
    text = (PROJECT / name).read_text(encoding="utf-8")
    return re.sub(r"\]\(docs/", "](../", text) if name.endswith(".md") else text
