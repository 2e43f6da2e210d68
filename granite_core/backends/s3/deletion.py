"""Deleting many objects at once: a request for each thousand, and what became of each of them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from granite_core.backends._bucket import delete_alone, goes_with_others
from granite_core.backends.s3.answers import pages
from granite_core.backends.s3.client import boto_errors, failure
from granite_core.errors import BackendUnavailableError, ObjectNotFoundError, StorageError

if TYPE_CHECKING:
    from granite_core.backends.s3.backend import S3StorageBackend

__all__ = ["delete_together", "versions_of"]

AT_ONCE: Final = 1000
"""Objects that one request names at most (S3 API, "DeleteObjects")."""
ATTEMPTS: Final = 3
PAUSE_SECONDS: Final = 0.2
_STATUS: Final = {"InternalError": 500, "ServiceUnavailable": 503, "SlowDown": 503}
"""The HTTP status that an error has where it is the whole answer."""


class _Named(NamedTuple):
    """An object, or a version of it, as a request names it."""

    key: str
    version: str | None = None


def delete_together(backend: S3StorageBackend, locations: Collection[str]) -> dict[str, Exception]:
    """Delete objects, with every version of them where the backend does so; return those that may still be there.

    What a request for many says of an object holds for that object alone. Where the store has an error for the whole
    of it, which may be that it knows no such request, each object is deleted by itself.
    """
    if len(locations) == 1:
        return delete_alone(backend.delete, locations)
    failed: dict[str, Exception] = {}
    for some in _batches(each for each in locations if goes_with_others(each)):
        try:
            failed |= _delete_some(backend, some)
        except boto_errors():
            failed |= delete_alone(backend.delete, some)
    return failed | delete_alone(backend.delete, [each for each in locations if not goes_with_others(each)])


def versions_of(backend: S3StorageBackend, key: str) -> Iterator[str]:
    """Yield the ids of all versions of an object, delete markers among them."""
    asked = {**backend._owner(), "Bucket": backend.bucket, "Prefix": key}
    for page in pages(backend.client, "list_object_versions", **asked):
        found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
        yield from (each["VersionId"] for each in found if each["Key"] == key)
        if found and all(each["Key"] != key for each in found):
            return


def _delete_some(backend: S3StorageBackend, locations: Collection[str]) -> Mapping[str, Exception]:
    hidden, failed = _delete_named(backend, [_Named(backend.prefix + each) for each in locations])
    if backend.delete_versions and hidden:
        # A versioned bucket says that it only hid the objects behind markers.
        versions = [_Named(key, version) for key in hidden for version in versions_of(backend, key)]
        for some in _batches(versions):
            failed |= _delete_named(backend, some)[1]
    return {each.key[len(backend.prefix) :]: error for each, error in failed.items()}


def _delete_named(backend: S3StorageBackend, named: Collection[_Named]) -> tuple[list[str], dict[_Named, Exception]]:
    """Delete what is named; return the keys that are only hidden, and what may still be there, and why."""
    hidden: list[str] = []
    silence = BackendUnavailableError("delete: the store did not say", operation="delete", backend="s3")
    left: dict[_Named, Exception] = dict.fromkeys(named, silence)
    final: dict[_Named, Exception] = {}
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        answer = backend._ask(
            "delete_objects",
            **backend._owner(),
            Bucket=backend.bucket,
            Delete={"Objects": [_as_asked(each) for each in left]},  # not quiet: what is gone is said to be
        )
        for each in answer.get("Deleted", ()):
            gone = _as_named(each, left)
            if left.pop(gone, None) is not None and gone.version is None and _is_hidden(each):
                hidden.append(gone.key)
        for each in answer.get("Errors", ()):
            refused = _as_named(each, left)
            if refused in left:
                left[refused] = error = _failure(each, refused.key[len(backend.prefix) :])
                if not isinstance(error, BackendUnavailableError):  # which is worth another try
                    final[refused] = left.pop(refused)
        if not left:
            break
    failed = {each: error for each, error in final.items() if not isinstance(error, ObjectNotFoundError)}
    return hidden, failed | left


def _as_asked(named: _Named) -> dict[str, str]:
    return {"Key": named.key, **({} if named.version is None else {"VersionId": named.version})}


def _as_named(told: Mapping[str, Any], asked: Collection[_Named]) -> _Named:
    key = str(told.get("Key"))
    exactly = _Named(key, told.get("VersionId"))
    return exactly if exactly in asked else _Named(key)


def _is_hidden(told: Mapping[str, Any]) -> bool:
    return bool(told.get("DeleteMarker") or told.get("DeleteMarkerVersionId") or told.get("VersionId"))


def _failure(told: Mapping[str, Any], location: str) -> StorageError:
    from botocore.exceptions import ClientError

    code = str(told.get("Code", ""))
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": _STATUS.get(code, 0)}}
    return failure(ClientError(answer, "DeleteObjects"), "delete", location)


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(items)
    while some := list(islice(rest, AT_ONCE)):
        yield some
