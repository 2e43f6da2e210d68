"""The store of one's own of the page on S3."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from docs.examples.obstore_store import make_backend
from granite_core import Capability
from tests.support.s3 import S3Server


def test_a_store_with_the_credentials_of_boto3(ministack: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = ministack.create_bucket()
    for name, value in {
        "AWS_ACCESS_KEY_ID": ministack.access_key,
        "AWS_SECRET_ACCESS_KEY": ministack.secret_key,
        "AWS_REGION": ministack.region,
        "AWS_ENDPOINT_URL": ministack.endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    backend = make_backend(bucket, allow_http=True)
    backend.check()
    ref = backend.put_bytes("a/b", b"content")
    assert backend.get(ref) == b"content"
    assert backend.identity[-2:] == (bucket, "uploads")
    assert Capability.PRESIGNED_GET in backend.capabilities
    address = backend.presign_get("a/b", starts=datetime.now(UTC), expires_in=timedelta(hours=1))
    assert f"X-Amz-Credential={ministack.access_key}" in address
    backend.close()
    ministack.drop_bucket(bucket)
