"""Addresses that S3 itself answers: signed ones as of a given moment, and plain ones.

botocore signs as of now, so that every address differs from the last. Signing is a page of arithmetic ("Authenticating
Requests: Using Query Parameters (AWS Signature Version 4)" in the S3 API): done here, it takes the moment as an
argument, and a tenth of the time. Where the bucket is, and as whom we sign, is asked of the client.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from granite_core.backends.s3.client import boto_errors, failure
from granite_core.errors import AccessDeniedError

__all__ = ["LONGEST", "SigningKey", "bucket_address", "object_address", "sign", "signing_key"]

LONGEST: Final = timedelta(days=7)
"""How long an address may be good."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_NO_REGION: Final = ("s3.amazonaws.com", "s3-fips.us-east-1.amazonaws.com")
# Where botocore's own presigned addresses lead, whatever the region: a redirect that the signature does not survive for
# new buckets, and nothing at all for regions that must be opted into.
_PROBE: Final = "k"


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


def bucket_address(client: Any, bucket: str, seen_at: str | None = None) -> str:
    """Find out a bucket's address, with a slash at its end.

    Args:
        client: The boto3 client, which knows whether buckets are hosts or folders.
        bucket: Its name.
        seen_at: The store's address as browsers see it, where that is another than the client's.

    Raises:
        StorageError: The client cannot tell.
    """
    try:
        probe = urlsplit(str(client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": _PROBE})))
    except boto_errors() as error:
        raise failure(error, "presign", "") from error
    scheme, host, path = probe.scheme, probe.netloc, probe.path.removesuffix(_PROBE)
    home = urlsplit(str(client.meta.endpoint_url)).netloc
    if host.removeprefix(f"{bucket}.") in _NO_REGION and "aws-global" not in home:
        host = f"{bucket}.{home}"
    if seen_at is not None:
        seen = urlsplit(seen_at)
        scheme, path = seen.scheme, seen.path.rstrip("/") + path
        host = f"{bucket}.{seen.netloc}" if host.startswith(f"{bucket}.") else seen.netloc
    return urlunsplit((scheme, _as_in_host_field(scheme, host), path, "", ""))


def signing_key(client: Any) -> SigningKey:
    """Ask the client as whom it signs. Blocks where its credentials must be fetched or renewed.

    Raises:
        AccessDeniedError: It has no credentials.
        StorageError: They cannot be had.
    """
    region = client.meta.region_name
    region = "us-east-1" if region in (None, "aws-global") else str(region)
    try:
        # boto3 has no public way to a client's credentials; its own `generate_presigned_url` goes this one.
        found = client._request_signer.get_auth_instance("s3", region, "s3v4-query").credentials
    except boto_errors() as error:
        raise failure(error, "presign", "") from error
    if found is None:
        raise AccessDeniedError("presign: there are no credentials to sign with", operation="presign", backend="s3")
    return SigningKey(found.access_key, found.secret_key, found.token, region)


def _encode(text: str) -> str:
    return quote(text, safe="")


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def _as_in_host_field(scheme: str, host: str) -> str:
    """The host as clients name it: without credentials and without the scheme's own port."""
    return host.rpartition("@")[2].removesuffix(f":{_DEFAULT_PORTS.get(scheme)}")
