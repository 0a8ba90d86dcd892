"""`python -m handbook` (`make reference`): write the pages, tables and drawings that are made from the code."""

from __future__ import annotations

from pathlib import Path

from handbook import what_runs_again


def pages() -> dict[Path, str]:
    """Every file that is made from the code, with its text."""
    return {what_runs_again.PAGE: what_runs_again.page()}


def main() -> None:
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
