"""What of S3 a source may reach beyond its own bucket: a table could otherwise name anything that the keys open."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.errors import SourceError
from tasks.images.sources.layout import printable
from tasks.settings import Source


@dataclass(frozen=True)
class Reach:
    """The allow-lists of the settings.

    Attributes:
        buckets: that a table may name besides the one in which it lies.
        endpoints: one of which the environment must give; with none, any.
    """

    buckets: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()

    @classmethod
    def of(cls, source: Source) -> Reach:
        return cls(source.s3_buckets, source.s3_endpoints)

    def check_endpoint(self) -> None:
        """Find out, without a request, whether the environment's endpoint is an allowed one.

        Raises:
            SourceError: it isn't; or the environment gives no client.
        """
        if not self.endpoints:
            return
        from tasks.images.sources.s3_client import shared_client
        from tasks.images.sources.s3_errors import host_of

        used = shared_client().meta.endpoint_url
        if _plain(used) not in map(_plain, self.endpoints):
            raise SourceError(
                f"{host_of(used)} is no endpoint that source.s3_endpoints allows ({', '.join(self.endpoints)}). Change "
                f"AWS_ENDPOINT_URL (unset, it is Amazon's), or add it to the list, with its http:// or https://."
            )

    def wrong_with_bucket(self, bucket: str, own: str | None) -> str | None:
        """Why a table in the bucket `own` (None: a local one) may not name this bucket; None if it may."""
        if bucket == own or bucket in self.buckets:
            return None
        where = "is not the table's own bucket, nor" if own else "is not"
        return f"the bucket {printable(bucket)!r} {where} in source.s3_buckets: add it if you trust this table"


OWN = Reach()
"""The source's own bucket, at whatever endpoint the environment gives."""


def _plain(endpoint: str) -> str:
    return endpoint.lower().rstrip("/")
