"""Finds the objects of a table and their versions, with few requests."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tasks.errors import SourceError
from tasks.images.sources import s3
from tasks.images.sources.policy import SourcePolicy
from tasks.images.sources.s3.client import client_for, parse
from tasks.images.sources.s3.objects import StoredObject, list_stored

_PAGE = 1000
_THREADS = 16
_MANY_FAILURES = 20


def locate(uris: Iterable[str], policy: SourcePolicy) -> dict[str, StoredObject | SourceError]:
    """Address -> the object's present version, or the error.

    The common prefix of the keys is listed, a thousand objects in a request, but never with more requests than there
    are keys. The other keys are requested one by one. After twenty failures no more requests are made, and the
    remaining keys are not in the result.

    Raises:
        SourceError: a listing fails.
    """
    wanted = set(uris)
    found: dict[str, StoredObject | SourceError] = {}
    for _, of_bucket in itertools.groupby(sorted(wanted), key=lambda uri: parse(uri).bucket):
        addresses = list(of_bucket)
        listed, is_complete = _listed(addresses, policy)
        found |= {uri: listed[uri] for uri in addresses if uri in listed}
        missing = [uri for uri in addresses if uri not in listed]
        if is_complete:
            found |= {uri: SourceError(f"{uri} can't be read: there is no such object.") for uri in missing}
        else:
            found |= dict(_asked(missing, policy))
    return found


def _listed(uris: list[str], policy: SourcePolicy) -> tuple[dict[str, StoredObject], bool]:
    """These objects as the listing shows them, and whether the listing is complete."""
    if len(uris) == 1:
        return {}, False  # a request for one object is as quick, and needs no permission to list
    common = os.path.commonprefix(uris)  # noqa: RUF071 - keys are not paths
    objects = list_stored(client_for(policy), parse(common))
    few = policy.watched(itertools.islice(objects, len(uris) * _PAGE))
    wanted = set(uris)  # a prefix may hold a thousand times as many objects
    met = {uri: stored for stored in few if (uri := str(stored.address)) in wanted}
    return met, next(objects, None) is None


def _asked(uris: list[str], policy: SourcePolicy) -> Iterator[tuple[str, StoredObject | SourceError]]:
    failures = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for batch in range(0, len(uris), _THREADS):
            few = uris[batch : batch + _THREADS]
            for uri, answer in zip(few, pool.map(lambda uri: _ask(uri, policy), few), strict=True):
                failures += isinstance(answer, SourceError)
                yield uri, answer
            if failures >= _MANY_FAILURES:
                return


def _ask(uri: str, policy: SourcePolicy) -> StoredObject | SourceError:
    try:
        return s3.describe_object(uri, policy)
    except SourceError as error:
        return error
