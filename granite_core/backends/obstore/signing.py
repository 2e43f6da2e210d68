"""Signed addresses of an S3 that is reached through obstore, whose own begin now and end with what they were made of.

Where the bucket is follows from the store's settings, and so does as whom we sign: from its key and secret, or from the
function that it asks for them.
"""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from granite_core.backends._sigv4 import SigningKey, as_in_host_field
from granite_core.backends.obstore.stores import Place
from granite_core.errors import AccessDeniedError, StorageError

__all__ = ["Signer", "bucket_address", "can_sign"]

MARGIN: Final = timedelta(minutes=5)


def can_sign(place: Place) -> bool:
    """Tell whether the store says as whom it signs, without waiting for an event loop."""
    asked = place.credentials
    if place.kind != "s3" or asked is None or place.bucket.startswith("arn:") or place.bucket.endswith("--x-s3"):
        return False
    return not any(inspect.iscoroutinefunction(each) for each in (asked, getattr(asked, "__call__", None)))  # noqa: B004 - the method is what is looked at, not whether there is one


def bucket_address(place: Place, seen_at: str | None) -> str:
    """Return a bucket's address, with a slash at its end.

    Args:
        place: Where it is.
        seen_at: The store's address as browsers see it, where that is another than ours.
    """
    bucket = place.bucket
    if place.endpoint is None:
        named, home = "." not in bucket, urlsplit(f"https://s3.{place.region}.amazonaws.com")
    else:
        named, home = place.virtual_host, urlsplit(place.endpoint)
    host = home.netloc.removeprefix(f"{bucket}.") if named else home.netloc
    scheme, path = home.scheme, home.path.rstrip("/")
    if seen_at is not None:
        seen = urlsplit(seen_at)
        scheme, host, path = seen.scheme, seen.netloc, seen.path.rstrip("/")
    host = as_in_host_field(scheme, host)
    if named:
        return urlunsplit((scheme, f"{bucket}.{host}", f"{path}/", "", ""))
    return urlunsplit((scheme, host, f"{path}/{bucket}/", "", ""))


class Signer:
    """As whom addresses are signed; what was handed out is kept until shortly before its end.

    Args:
        place: Whose.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._kept: tuple[SigningKey, datetime | None] | None = None

    def key(self) -> SigningKey:
        """Return the key. Blocks where credentials must be fetched or renewed.

        Raises:
            AccessDeniedError: There are none.
        """
        kept = self._kept
        if kept is not None and (kept[1] is None or datetime.now(UTC) < kept[1] - MARGIN):
            return kept[0]
        found = self._ask() if callable(self._place.credentials) else self._place.credentials
        key = SigningKey(
            found["access_key_id"], found["secret_access_key"], found.get("token") or None, self._place.region
        )
        if not callable(self._place.credentials) or found.get("expires_at") is not None:
            self._kept = (key, found.get("expires_at"))
        return key

    def _ask(self) -> Any:
        try:
            return self._place.credentials()
        except StorageError:
            raise
        except Exception as error:
            raise AccessDeniedError(
                "presign: there are no credentials to sign with", operation="presign", backend="obstore"
            ) from error
