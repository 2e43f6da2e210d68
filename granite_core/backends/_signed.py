"""Requests by which others store an object on S3, signed alike by every backend that reaches one. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from granite_core.backends._sigv4 import SigningKey, object_address, sign, sign_form
from granite_core.backends.requests import SignedRequest

__all__ = ["signed_form", "signed_part", "signed_put"]

CHECKSUM: Final = "x-amz-checksum-sha256"
_SHA256: Final = "sha256:"


def signed_put(
    folder: str,
    key: str,
    signing: SigningKey,
    *,
    starts: datetime,
    expires_in: timedelta,
    size: int,
    content_type: str | None,
    checksum: str | None,
    headers: Mapping[str, str],
) -> SignedRequest:
    """Return a PUT of one object. Its length is signed, so that the store takes no other.

    Args:
        folder: The bucket's address.
        key: The object's, in the bucket.
        signing: As whom to sign.
        starts: When it begins to be good.
        expires_in: For how long.
        size: Length in bytes.
        content_type: Media type.
        checksum: ``"sha256:…"``.
        headers: What else is to be sent.
    """
    sent = {**headers, **_described("Content-Type", content_type, checksum)}
    url = sign(
        object_address(folder, key),
        {},
        signing,
        method="PUT",
        starts=starts,
        expires_in=expires_in,
        headers={**sent, "Content-Length": str(size)},
    )
    return SignedRequest("PUT", url, sent)


def signed_part(
    folder: str,
    key: str,
    signing: SigningKey,
    *,
    starts: datetime,
    expires_in: timedelta,
    size: int,
    upload: str,
    number: int,
) -> SignedRequest:
    """Return a PUT of one part of an object; see ``signed_put``.

    Args:
        folder: The bucket's address.
        key: The object's, in the bucket.
        signing: As whom to sign.
        starts: When it begins to be good.
        expires_in: For how long.
        size: Length in bytes of the part.
        upload: Name of the multipart upload.
        number: Which part.
    """
    url = sign(
        object_address(folder, key),
        {"partNumber": str(number), "uploadId": upload},
        signing,
        method="PUT",
        starts=starts,
        expires_in=expires_in,
        headers={"Content-Length": str(size)},
    )
    return SignedRequest("PUT", url)


def signed_form(
    folder: str,
    bucket: str,
    key: str,
    signing: SigningKey,
    *,
    starts: datetime,
    expires_in: timedelta,
    min_size: int,
    max_size: int,
    content_type: str | None,
    checksum: str | None,
    redirect: str | None,
    fields: Mapping[str, str],
) -> SignedRequest:
    """Return a form by which a browser stores one object.

    Args:
        folder: The bucket's address.
        bucket: Its name.
        key: The object's, in the bucket.
        signing: As whom to sign.
        starts: When it begins to be good.
        expires_in: For how long.
        min_size: Smallest length in bytes.
        max_size: Largest length in bytes.
        content_type: Media type.
        checksum: ``"sha256:…"``.
        redirect: Where the browser is sent at the end.
        fields: What else the form is to hold.
    """
    ends = {"success_action_status": "204"} if redirect is None else {"success_action_redirect": redirect}
    texts = {"key": key, **ends, **fields, **_described("Content-Type", content_type, checksum)}
    conditions = [{"bucket": bucket}, ["content-length-range", min_size, max_size]]
    return SignedRequest(
        "POST", folder, {}, sign_form(texts, conditions, signing, starts=starts, expires_in=expires_in)
    )


def _described(type_name: str, content_type: str | None, checksum: str | None) -> dict[str, str]:
    found = {} if content_type is None else {type_name: content_type}
    if checksum is not None:
        found[CHECKSUM] = base64.b64encode(bytes.fromhex(checksum.removeprefix(_SHA256))).decode("ascii")
    return found
