"""Objects that others write to the bucket in our name: in parts, begun and joined here, and cleared away."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from granite_core.backends.s3.answers import pages
from granite_core.backends.s3.client import boto_errors, error_code, failure
from granite_core.backends.s3.resuming import abort_uploads
from granite_core.errors import ObjectNotFoundError
from granite_core.options import NO_OPTIONS

if TYPE_CHECKING:
    from granite_core.backends.s3.backend import S3StorageBackend

__all__ = ["begin_parts", "discard_parts", "encryption_headers", "join_parts", "list_parts"]

_HEADERS: Final = {
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "RequestPayer": "x-amz-request-payer",
    "ExpectedBucketOwner": "x-amz-expected-bucket-owner",
}


def encryption_headers(extra: Mapping[str, Any]) -> dict[str, str]:
    """Return what others have to send where the bucket's rules ask it of every object that is stored."""
    return {header: str(extra[name]) for name, header in _HEADERS.items() if name in extra}


def begin_parts(backend: S3StorageBackend, location: str, content_type: str | None) -> str:
    """Begin a multipart upload, and return its id."""
    described = backend._object_head(content_type, NO_OPTIONS, {})
    try:
        return str(backend._ask("create_multipart_upload", **{**described, **backend._object(location)})["UploadId"])
    except boto_errors() as error:
        raise failure(error, "begin", location) from error


def list_parts(backend: S3StorageBackend, location: str, upload: str) -> dict[int, int]:
    """Return the lengths of the parts that have come."""
    return {number: size for number, (size, _) in _parts(backend, location, upload).items()}


def join_parts(backend: S3StorageBackend, location: str, upload: str) -> None:
    """Complete a multipart upload of the parts that the bucket names: their tags are not asked of whoever sent them."""
    try:
        try:
            _complete(backend, location, upload)
        except boto_errors() as error:
            if error_code(error) != "InvalidPart":
                raise
            _complete(backend, location, upload)  # a part was sent again since the bucket named it
    except boto_errors() as error:
        if error_code(error) == "NoSuchUpload":
            # Completed before: by a try whose answer was lost.
            with suppress(ObjectNotFoundError):
                backend.stat(location)
                return
        raise failure(error, "join", location) from error


def _complete(backend: S3StorageBackend, location: str, upload: str) -> None:
    parts = [{"PartNumber": number, "ETag": tag} for number, (_, tag) in _parts(backend, location, upload).items()]
    backend._ask(
        "complete_multipart_upload",
        **backend._object(location),
        UploadId=upload,
        MultipartUpload={"Parts": parts},
    )


def discard_parts(backend: S3StorageBackend, location: str, upload: str | None) -> None:
    """Abort the multipart uploads of a key; where they may not be listed, the one that is known."""
    abort_uploads(backend, location, upload)


def _parts(backend: S3StorageBackend, location: str, upload: str) -> dict[int, tuple[int, str]]:
    found: dict[int, tuple[int, str]] = {}
    try:
        for page in pages(backend.client, "list_parts", **backend._object(location), UploadId=upload):
            found.update((each["PartNumber"], (int(each["Size"]), each["ETag"])) for each in page.get("Parts", ()))
    except boto_errors() as error:
        if error_code(error) == "NoSuchUpload":
            raise ObjectNotFoundError(
                "there is no such upload", operation="parts", backend="s3", location=location
            ) from error
        raise failure(error, "parts", location) from error
    return dict(sorted(found.items()))
