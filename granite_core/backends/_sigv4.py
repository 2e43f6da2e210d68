"""Signature Version 4 of an address, as of a given moment. Pure.

Clients of S3 sign as of now, so that every address differs from the last. Signing is a page of arithmetic
("Authenticating Requests: Using Query Parameters (AWS Signature Version 4)" in the S3 API): done here, it takes the
moment as an argument, and a tenth of the time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from urllib.parse import quote, urlsplit

__all__ = ["LONGEST", "SigningKey", "as_in_host_field", "object_address", "sign", "sign_form"]

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
    method: Literal["GET", "HEAD", "PUT"],
    starts: datetime,
    expires_in: timedelta,
    headers: Mapping[str, str] | None = None,
) -> str:
    """Sign an object's address. Pure.

    Args:
        address: Of the object, without a query.
        query: Parameters to bind in.
        key: As whom to sign.
        method: The only one the address is good for.
        starts: When it begins to be good.
        expires_in: For how long.
        headers: What must be sent with it, just so.
    """
    parts = urlsplit(address)
    stamp, scope = _stamp(starts, key)
    bound = sorted({"host": parts.netloc, **{name.lower(): each for name, each in (headers or {}).items()}}.items())
    names = ";".join(name for name, _ in bound)
    signed = {
        **query,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{key.access_key}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(int(expires_in.total_seconds())),
        "X-Amz-SignedHeaders": names,
        **({"X-Amz-Security-Token": key.token} if key.token else {}),
    }
    text = "&".join(f"{name}={value}" for name, value in sorted((_encode(n), _encode(v)) for n, v in signed.items()))
    lines = [f"{name}:{' '.join(value.split())}" for name, value in bound]
    request = "\n".join((method, parts.path, text, *lines, "", names, "UNSIGNED-PAYLOAD"))
    digest = hashlib.sha256(request.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    return f"{address}?{text}&X-Amz-Signature={_signature(key, scope, to_sign)}"


def sign_form(
    fields: Mapping[str, str],
    conditions: Sequence[Any],
    key: SigningKey,
    *,
    starts: datetime,
    expires_in: timedelta,
) -> dict[str, str]:
    """Sign a form that a browser posts ("POST Policy", "Authenticating Requests in Browser-Based Uploads"). Pure.

    Args:
        fields: Texts of the form, each of which must come as it is here.
        conditions: What else must hold of it (``["content-length-range", 0, 10]``).
        key: As whom to sign.
        starts: When it begins to be good.
        expires_in: For how long.

    Returns:
        All texts of the form.
    """
    stamp, scope = _stamp(starts, key)
    all_fields = {
        **fields,
        "x-amz-algorithm": "AWS4-HMAC-SHA256",
        "x-amz-credential": f"{key.access_key}/{scope}",
        "x-amz-date": stamp,
        **({"x-amz-security-token": key.token} if key.token else {}),
    }
    ends = (starts.astimezone(UTC) + expires_in).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    policy = {"expiration": ends, "conditions": [*({name: each} for name, each in all_fields.items()), *conditions]}
    encoded = base64.b64encode(json.dumps(policy).encode()).decode("ascii")
    return {**all_fields, "policy": encoded, "x-amz-signature": _signature(key, scope, encoded)}


def _stamp(starts: datetime, key: SigningKey) -> tuple[str, str]:
    stamp = starts.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    return stamp, f"{stamp[:8]}/{key.region}/s3/aws4_request"


def _signature(key: SigningKey, scope: str, to_sign: str) -> str:
    secret = f"AWS4{key.secret}".encode()
    for piece in scope.split("/"):
        secret = _hmac(secret, piece)
    return _hmac(secret, to_sign).hex()


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
