"""Failures of S3: each begins here and is ended by `end`."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.servers.fault_proxy import FaultProxy
from tests.soak.site import Site
from tests.soak.source import Source

KINDS = ("connections refused", "connections reset", "503 SlowDown", "cut bodies", "slow answers", "changed while read")


def begin(kind: str, site: Site, random: Random) -> str:
    """Let S3 fail. Returns a detail for the record."""
    if kind == "connections refused":
        site.refuse()
        return ""
    site.accept()
    proxy = site.proxy
    assert proxy is not None
    if kind == "changed while read":
        return _change_while_read(proxy, site.source)
    share = random.choice((1, 2, 5))
    rules: dict[str, dict[str, Any]] = {
        "connections reset": {"before": _reset},
        "503 SlowDown": {"status": 503, "code": "SlowDown"},
        "cut bodies": {"method": "GET", "drop_after": 100},
        "slow answers": {"delay_s": random.uniform(1, 8)},
    }
    if share > 1:
        _sometimes(proxy, share, rules[kind], random)
        return f"one request in {share}"
    proxy.add(**rules[kind])
    return "all requests"


def end(site: Site) -> None:
    """S3 is as it should be."""
    site.accept()
    assert site.proxy is not None
    site.proxy.clear()


def _reset() -> None:
    raise ConnectionResetError


def _sometimes(proxy: FaultProxy, share: int, rule: dict[str, Any], random: Random) -> None:
    """Let about one request in `share` fail. A request that a rule lets go by counts for all rules behind it, too."""
    skipped = 0
    for _ in range(300):
        skipped += random.randint(0, 2 * (share - 1))
        proxy.add(**rule, skip=skipped, times=1)


def _change_while_read(proxy: FaultProxy, source: Source) -> str:
    path = source.any_path()
    proxy.add(method="GET", path=path, times=1, before=lambda: source.rewrite(path))
    return path
