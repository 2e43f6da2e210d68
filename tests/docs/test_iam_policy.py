"""The IAM policy of the S3 guide allows what the backend does, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from granite_core import ConfigurationError, S3StorageBackend, WriteOptions
from tests.support.s3 import S3Server

POLICY = Path(__file__).parents[2] / "docs" / "examples" / "iam-policy.json"
MIB = 1024 * 1024

# Which permissions a call needs (Amazon S3 User Guide, "Required permissions for Amazon S3 API operations").
NEEDS = {
    "AbortMultipartUpload": {"s3:AbortMultipartUpload"},
    "CompleteMultipartUpload": {"s3:PutObject"},
    "CopyObject": {"s3:GetObject", "s3:PutObject"},
    "CreateMultipartUpload": {"s3:PutObject"},
    "DeleteObject": {"s3:DeleteObject"},
    "DeleteObjects": {"s3:DeleteObject"},
    "GetBucketLifecycleConfiguration": {"s3:GetLifecycleConfiguration"},
    "GetBucketVersioning": {"s3:GetBucketVersioning"},
    "GetObject": {"s3:GetObject"},
    "HeadBucket": {"s3:ListBucket"},
    "HeadObject": {"s3:GetObject"},
    "ListMultipartUploads": {"s3:ListBucketMultipartUploads"},
    "ListObjectVersions": {"s3:ListBucketVersions"},
    "ListObjectsV2": {"s3:ListBucket"},
    "ListParts": {"s3:ListMultipartUploadParts"},
    "PutObject": {"s3:PutObject"},
    "UploadPart": {"s3:PutObject"},
    "UploadPartCopy": {"s3:GetObject", "s3:PutObject"},
}


def test_the_policy_allows_what_the_backend_does(
    ministack: S3Server, s3_bucket: Callable[..., tuple[Any, str]]
) -> None:
    needed: set[str] = set()

    def note(model: Any, params: dict[str, Any], **_: object) -> None:
        needed.update(NEEDS[model.name])
        if "versionId" in params["query_string"]:
            needed.add("s3:DeleteObjectVersion" if model.name == "DeleteObject" else "s3:GetObjectVersion")
        if model.name == "DeleteObjects" and b"VersionId" in params["body"]:
            needed.add("s3:DeleteObjectVersion")
        if "x-amz-tagging" in params["headers"]:
            needed.add("s3:PutObjectTagging")

    for versioned in (False, True):
        client, bucket = s3_bucket(ministack, versioned=versioned)
        client.meta.events.register("before-call.s3", note)
        _use(S3StorageBackend(bucket, "uploads", client=client, part_size=5 * MIB))
    with pytest.raises(ConfigurationError, match="lifecycle"):
        S3StorageBackend(bucket, "uploads", client=client, delete_versions=False).check()

    allowed: set[str] = set()
    for statement in json.loads(POLICY.read_text())["Statement"]:
        actions = statement["Action"]
        allowed.update([actions] if isinstance(actions, str) else actions)
    assert needed == allowed


def _use(backend: S3StorageBackend) -> None:
    """Do everything that the contract knows."""
    backend.check()
    with backend.open_writer("a", options=WriteOptions(tags={"kind": "test"})) as writer:
        writer.write(bytes(6 * MIB))
        writer.commit()
    with backend.open_writer("b") as writer:
        writer.write(bytes(11 * MIB))  # begun in parts, and given up
    backend.client.create_multipart_upload(Bucket=backend.bucket, Key="uploads/c")
    backend.clear_unfinished(timedelta(seconds=-60))
    backend.copy("a", "d")
    backend.put_bytes("f", b"x")
    assert backend.delete_many(["f", "absent"]) == {}
    backend.copy_limit = 5 * MIB
    backend.copy("a", "e")
    assert backend.stat("e").size == len(backend.get("d"))
    assert not backend.exists("nothing")
    for location in list(backend.iter_locations()):
        backend.delete(location)
