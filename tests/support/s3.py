"""What a test knows of an S3 server: where it is, whom it lets in, a client for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import uuid4

__all__ = ["S3Server"]


@dataclass(frozen=True)
class S3Server:
    """An S3 server that tests may do anything to."""

    name: str
    endpoint: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def client(self, **config: Any) -> Any:
        """A new boto3 client, path-style and without proxies; `config` goes to botocore's Config."""
        import boto3
        import botocore.session
        from botocore.config import Config

        session = botocore.session.Session()
        session.register_component("data_loader", _descriptions())
        config = {"s3": {"addressing_style": "path"}, "proxies": {}, "signature_version": "s3v4", **config}
        return boto3.session.Session(botocore_session=session).client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(**config),
        )

    def create_bucket(self, *, versioned: bool = False) -> str:
        """A new, empty bucket."""
        bucket = f"granite-{uuid4().hex}"
        client = self.client()
        client.create_bucket(Bucket=bucket)
        if versioned:
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        client.close()
        return bucket

    def drop_bucket(self, bucket: str) -> None:
        """Remove a bucket with its objects, versions and unfinished uploads: the servers keep all in memory."""
        client = self.client()
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
            for upload in page.get("Uploads", []):
                client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
            found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            if found:
                objects = [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in found]
                client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
        client.delete_bucket(Bucket=bucket)
        client.close()


@cache
def _descriptions() -> Any:
    """boto3's description of S3, read once in a process: that is most of what making a client costs."""
    from botocore.loaders import create_loader

    return create_loader()
