"""Hooks of MkDocs: pages link to files of the project, as on GitHub, so the site contains these files, too."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).parents[1]
DOCS, OTHERS = "docs/", "project/"
"""Where pages are in the project; where the site has files from outside of that folder."""
LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the project to which pages link, and those to which these link."""
    pending = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while pending:
        page, text = pending.pop()
        for target, _ in LINK.findall(text):
            name = named(page, target)
            if name.startswith(DOCS) or not (PROJECT / name).is_file() or files.get_file_from_path(OTHERS + name):
                continue
            content = (PROJECT / name).read_text(encoding="utf-8")
            files.append(File.generated(config, OTHERS + name, content=content))
            pending += [(OTHERS + name, content)] if name.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Let links to files of the project lead to where the site has them."""
    here = page.file.src_uri

    def lead(found: re.Match[str]) -> str:
        name = named(here, found[1])
        there = name.removeprefix(DOCS) if name.startswith(DOCS) else OTHERS + name
        return f"]({posixpath.relpath(there, posixpath.dirname(here) or '.')}{found[2] or ''})"

    return LINK.sub(lead, markdown)


def on_page_content(html: str, **_: object) -> str:
    """Let wide tables be scrolled by keyboard, too, and let no heading of a column be empty."""
    html = re.sub(r"<th( [^>]*)?></th>", r"<td\1></td>", html)
    return html.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")


def on_post_page(output: str, **_: object) -> str:
    """Name the theme's search box, so that screen readers can tell what opens."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')


def named(page: str, target: str) -> str:
    """The path in the project of what a page of the site links to."""
    of_page = page.removeprefix(OTHERS) if page.startswith(OTHERS) else DOCS + page
    return posixpath.normpath(posixpath.join(posixpath.dirname(of_page), target))
