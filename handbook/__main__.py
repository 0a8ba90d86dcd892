"""`python -m handbook` (`make reference`): write the pages, tables and drawings that are made from the code."""

from __future__ import annotations

from pathlib import Path

from handbook import (
    artifacts_page,
    commands_page,
    errors_page,
    files_page,
    imports,
    reasons_page,
    settings_page,
    what_runs_again,
)

MADE = (
    artifacts_page,
    commands_page,
    errors_page,
    files_page,
    imports,
    reasons_page,
    settings_page,
    what_runs_again,
)


def pages() -> dict[Path, str]:
    """Every file that is made from the code, with its text."""
    return {one.PAGE: one.page() for one in MADE}


def main() -> None:
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
