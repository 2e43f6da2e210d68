"""Where a bucket is, and as whom its addresses are signed: asked of the boto3 client."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from granite_core.backends._sigv4 import SigningKey, as_in_host_field
from granite_core.backends.s3.client import boto_errors, failure
from granite_core.errors import AccessDeniedError

__all__ = ["bucket_address", "signing_key"]

_NO_REGION: Final = ("s3.amazonaws.com", "s3-fips.us-east-1.amazonaws.com")
# Where botocore's own presigned addresses lead, whatever the region: a redirect that the signature does not survive for
# new buckets, and nothing at all for regions that must be opted into.
_PROBE: Final = "k"


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
    return urlunsplit((scheme, as_in_host_field(scheme, host), path, "", ""))


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
