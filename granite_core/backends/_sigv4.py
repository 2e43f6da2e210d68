"""Signature Version 4 of an address, as of a given moment. Pure.

Clients of S3 sign as of now, so that every address differs from the last. Signing is a page of arithmetic
("Authenticating Requests: Using Query Parameters (AWS Signature Version 4)" in the S3 API): done here, it takes the
moment as an argument, and a tenth of the time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal
from urllib.parse import quote, urlsplit

__all__ = ["LONGEST", "SigningKey", "as_in_host_field", "object_address", "sign"]

LONGEST: Final = timedelta(days=7)
"""How long an address may be good."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """As whom, and for which region, addresses are signed."""

    access_key: str
    secret: str = field(repr=False)
    token: str | None = field(repr=False)
    region: str


def sign(
    address: str,
    query: Mapping[str, str],
    key: SigningKey,
    *,
    method: Literal["GET", "HEAD"],
    starts: datetime,
    expires_in: timedelta,
) -> str:
    """Sign an object's address. Pure.

    Args:
        address: Of the object, without a query.
        query: Parameters to bind in.
        key: As whom to sign.
        method: The only one the address is good for.
        starts: When it begins to be good.
        expires_in: For how long.
    """
    parts = urlsplit(address)
    stamp = starts.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{key.region}/s3/aws4_request"
    signed = {
        **query,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{key.access_key}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(int(expires_in.total_seconds())),
        "X-Amz-SignedHeaders": "host",
        **({"X-Amz-Security-Token": key.token} if key.token else {}),
    }
    text = "&".join(f"{name}={value}" for name, value in sorted((_encode(n), _encode(v)) for n, v in signed.items()))
    request = "\n".join((method, parts.path, text, f"host:{parts.netloc}", "", "host", "UNSIGNED-PAYLOAD"))
    digest = hashlib.sha256(request.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    secret = f"AWS4{key.secret}".encode()
    for piece in scope.split("/"):
        secret = _hmac(secret, piece)
    return f"{address}?{text}&X-Amz-Signature={_hmac(secret, to_sign).hex()}"


def object_address(folder: str, key: str) -> str:
    """Return the address of the object that has this key in a bucket, or a folder of one, which ends in a slash."""
    return f"{folder}{quote(key, safe='/')}"


def as_in_host_field(scheme: str, host: str) -> str:
    """Return a host as clients name it: without credentials and without the scheme's own port."""
    return host.rpartition("@")[2].removesuffix(f":{_DEFAULT_PORTS.get(scheme)}")


def _encode(text: str) -> str:
    return quote(text, safe="")


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
