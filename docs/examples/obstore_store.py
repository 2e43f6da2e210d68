"""A bucket through obstore, with a store of one's own, and credentials from where boto3 finds them."""

from __future__ import annotations

from boto3 import Session
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store

from granite_core import ObstoreStorageBackend


def make_backend(bucket: str, *, allow_http: bool = False) -> ObstoreStorageBackend:
    store = S3Store(
        bucket,
        credential_provider=Boto3CredentialProvider(Session()),  # profiles and SSO, too
        unsigned_payload=True,
        disable_bulk_delete=True,  # one small request for one deletion
        client_options={
            "allow_http": allow_http,
            "read_timeout": "60s",
            "timeout": "7d",  # of a whole answer, 30 seconds by default: less than a film takes
        },
        retry_config={"max_retries": 3},
    )
    return ObstoreStorageBackend(store, "uploads")
