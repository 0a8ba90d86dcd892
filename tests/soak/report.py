"""The report of a soak, in Markdown."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from statistics import median

from tasks.markdown_tables import duration, markdown_table
from tests.soak.judging import GOOD, Soak, disturbing, healed, kinds, states
from tests.soak.record import Night
from tests.soak.samples import MEASURES, thirds

_SHOWN = 20


def report(soak: Soak) -> str:
    """All figures, the verdict first."""
    parts = ["# Soak", _verdict(soak), _figures(soak), "## Promises", _promises(soak), "## Faults", _faults(soak)]
    parts += ["## Memory and disk", _flatness(soak), "## What nights healed", _healing(soak)]
    parts += ["## Nights that did not complete", _failures(soak), "## Nights", _nights(soak)]
    return "\n\n".join(parts) + "\n"


def _verdict(soak: Soak) -> str:
    broken = [name for name, problems in soak.problems.items() if problems]
    if not broken:
        return "Every promise was kept."
    return f"Broken promises: {', '.join(broken)}."


def _figures(soak: Soak) -> str:
    seconds = [one.seconds for one in soak.nights if one.state == GOOD and one.seconds is not None]
    rows = [
        ["commit", soak.commit],
        ["seed", str(soak.seed)],
        ["duration", duration(soak.length_s)],
        [
            "nights",
            f"{len(soak.nights)}: " + ", ".join(f"{n} {state}" for state, n in states(soak.nights).most_common()),
        ],
        ["nights that were disturbed", str(sum(bool(disturbing(one, soak.faults)) for one in soak.nights))],
        ["nights that healed something", str(len(healed(soak.nights)))],
        ["nights lost", str(len(soak.problems.get("no night is lost", [])))],
        ["faults", str(len(soak.faults))],
        ["median time of a completed night", duration(median(seconds)) if seconds else "-"],
        *([name, text] for name, text in soak.figures.items()),
    ]
    return markdown_table(["figure", "value"], rows)


def _promises(soak: Soak) -> str:
    rows = [[name, "kept" if not found else f"broken {len(found)} times"] for name, found in soak.problems.items()]
    lists = [
        f"{name}:\n\n" + "\n".join(f"- {_line(one)}" for one in found[:_SHOWN])
        for name, found in soak.problems.items()
        if found
    ]
    return "\n\n".join([markdown_table(["promise", "verdict"], rows), *lists])


def _faults(soak: Soak) -> str:
    rows = [[name, str(count)] for name, count in sorted(kinds(soak.faults).items())]
    return markdown_table(["fault", "times"], rows, right=["times"])


def _flatness(soak: Soak) -> str:
    rows = []
    for measure, name in MEASURES.items():
        both = thirds(soak.samples, measure)
        rows.append([name, *(("-", "-") if both is None else (f"{both[0]:.0f} MB", f"{both[1]:.0f} MB"))])
    heads = ["measure", "first third", "last third"]
    return markdown_table(heads, rows, right=heads[1:])


def _healing(soak: Soak) -> str:
    counted = Counter(_kind_of(line) for night in soak.nights for line in night.healed)
    return markdown_table(
        ["line of the log", "times"], [[one, str(n)] for one, n in counted.most_common()], right=["times"]
    )


def _kind_of(line: str) -> str:
    """A line without names and numbers that differ each time."""
    words = ["..." if any(mark in word for mark in "/0123456789") else word for word in line.split()]
    short = [word for word, before in zip(words, ["", *words], strict=False) if word != before or word != "..."]
    return " ".join(short)[:120]


def _failures(soak: Soak) -> str:
    counted = Counter(
        (one.state.lower(), _line(one.reason)[:160])
        for one in soak.nights
        if one.state != GOOD and one.ended is not None
    )
    rows = [[state, reason, str(n)] for (state, reason), n in counted.most_common()]
    return markdown_table(["state", "reason", "times"], rows, right=["times"])


def _nights(soak: Soak) -> str:
    return markdown_table(
        ["due", "state", "time", "faults", "healed", "commit"],
        [_night(one, soak) for one in soak.nights],
    )


def _night(night: Night, soak: Soak) -> list[str]:
    hits = disturbing(night, soak.faults) if night.began else []
    return [
        f"{datetime.fromtimestamp(night.due, UTC):%H:%M}",
        night.state.lower(),
        duration(night.seconds),
        ", ".join(dict.fromkeys(f"{one.kind}: {one.target}" for one in hits)),
        "; ".join(dict.fromkeys(_kind_of(line)[:60] for line in night.healed)),
        night.commit,
    ]


def _line(text: str) -> str:
    return " ".join(text.split())
