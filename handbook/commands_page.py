"""The page of all `make` targets with their variables, and of the variables of the environment that the programs read."""

from __future__ import annotations

import re

from handbook.markdown import NOTE, code, table
from handbook.what_runs_again import PROJECT

PAGE = PROJECT / "docs/reference/commands.md"
TEXT = """# All commands

{note}`make help` prints the same. Every target makes the environment first if it needs it; with an environment that is up to date this takes no time.
Each target takes only its own variables, and refuses others, so that a misspelt one is noticed. All of them also take `FLAVOUR=cpu` or `gpu`, and
`PYTHON=` for another interpreter.

## Targets of make

{targets}
`docker`, `git`, `dvc` and `prefect` are used as they are. [Must I activate the environment?](../environment.md) says how to call the programs of
this project.

## Programs

Each prints its options with `--help`.

{programs}
## Variables of the environment

Secrets and addresses are never settings. Besides those of [DVC](https://dvc.org/doc/user-guide), git, boto3 (`AWS_...`), Prefect (`PREFECT_...`), TFDS
(`TFDS_DATA_DIR`) and Ray (`RAY_ADDRESS`), the programs read:

{variables}"""
VARIABLES = {
    "ROOTSTOCK_ALERT_WEBHOOK": "where `make alerts` lets the server send [messages](../prefect.md#alerts)",
    "ROOTSTOCK_PUBLIC_KEY": "a PEM file: models must be [signed](../verification.md) by its owner",
    "ROOTSTOCK_SIGNING_KEY": "a PEM file: exports are [signed](../verification.md#how-do-i-sign) with it",
    "ROOTSTOCK_VGG16_WEIGHTS": "a file with the [weights](../weights.md)",
}
INTERNAL = {"ROOTSTOCK_PROGRESS", "ROOTSTOCK_COMMIT", "ROOTSTOCK_ROOT"}
"""Set by the project itself for its children."""
PROGRAMS = {
    "tasks.predict": "[predict files](../serving.md#predict-files)",
    "tasks.score": "[score a whole source](../scoring.md)",
    "tasks.serve": "[answer by HTTP](../server.md)",
    "tasks.watch": "[compare new images with the test images](../watching.md)",
    "tasks.registry": "[versions, promotion, roll-back](../registry.md)",
    "tasks.search": "[try linear probes](../strategies.md#which-head)",
    "tasks.find_rate": "[look for learning rates](../strategies.md#which-learning-rates)",
    "tasks.tidy": "[delete what nothing needs](../disk.md)",
    "tasks.plan": "what the next run would do",
}


def page() -> str:
    makefile = (PROJECT / "Makefile").read_text()
    read = dict(re.findall(r"^READS_([a-z-]+) := (.*)$", makefile, re.MULTILINE))
    rows = [
        (code(f"make {name}"), about, " ".join(code(f"{one}=") for one in read.get(name, "").split()))
        for name, about in re.findall(r"^([a-z-]+):.*## (.*)$", makefile, re.MULTILINE)
    ]
    programs = [(code(f"python -m {name}"), about) for name, about in PROGRAMS.items()]
    return TEXT.format(
        note=NOTE,
        targets=table(("command", "what it does", "takes"), rows),
        programs=table(("program", "what it does"), programs),
        variables=table(("variable", "meaning"), _variables()),
    )


def _variables() -> list[tuple[str, str]]:
    files = [file for folder in ("flows", "tasks") for file in (PROJECT / folder).rglob("*.py")]
    found = {name for file in files for name in re.findall(r"\bROOTSTOCK_[A-Z0-9_]+\b", file.read_text())}
    if found != VARIABLES.keys() | INTERNAL:
        raise ValueError(f"handbook/commands_page.py doesn't explain {found ^ (VARIABLES.keys() | INTERNAL)}")
    return [(code(name), about) for name, about in VARIABLES.items()]
