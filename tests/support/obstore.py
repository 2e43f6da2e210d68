"""Stores of obstore that reach the test servers."""

from __future__ import annotations

from typing import Any

from tests.support.s3 import S3Server

__all__ = ["s3_store"]


def s3_store(server: S3Server, bucket: str, *, endpoint: str | None = None, **options: Any) -> Any:
    """An S3Store of a bucket, path-style; `options` go to its constructor."""
    from obstore.store import S3Store

    config: dict[str, Any] = {
        "endpoint": endpoint or server.endpoint,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        "region": server.region,
        "virtual_hosted_style_request": "false",
        "disable_bulk_delete": "true",
    }
    settings = {"client_options": {"allow_http": True, "read_timeout": "60s", "timeout": "1d"}, **options}
    return S3Store(bucket, config=config, **settings)
