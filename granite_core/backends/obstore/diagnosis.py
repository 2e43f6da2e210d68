"""What can be said of a store through obstore, which does not ask a bucket about itself."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Final

from granite_core.backends.obstore.stores import Place
from granite_core.findings import Finding, Severity

__all__ = ["judge_store"]

_RULE: Final = {
    "ID": "granite-unfinished-uploads",
    "Status": "Enabled",
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
}


def judge_store(place: Place, prefix: str) -> Iterator[Finding]:
    """Say what is to be known of a store.

    Args:
        place: Where it is.
        prefix: What our keys begin with, all of it.
    """
    if place.kind == "file":
        yield Finding(
            "obstore-local",
            Severity.WARNING,
            "obstore's local store does not wait for the disk: a power cut may lose files whose rows are committed;"
            " and what a killed process left half-written stays",
            "use LocalStorageBackend (file:…) for local disks: it reads the same files",
        )
    if place.kind == "s3":
        rule = json.dumps({"Rules": [{**_RULE, "Filter": {"Prefix": prefix}}]})
        set_rule = _command(place, "put-bucket-lifecycle-configuration", "--lifecycle-configuration", rule)
        yield Finding(
            "obstore-unfinished",
            Severity.WARNING,
            "uploads that a killed process never finished cannot be seen through obstore, and cost until they are"
            " removed: by a lifecycle rule, which is not visible from here either",
            "see that the bucket has the rule, or set it, with the rules that are there already (the command replaces"
            f" them all):\n{_command(place, 'get-bucket-lifecycle-configuration')}\n{set_rule}",
        )
    if place.kind == "gs":
        bucket = shlex.quote(f"gs://{place.bucket}")
        yield Finding(
            "obstore-unfinished",
            Severity.NOTE,
            "uploads that a killed process never finished cannot be seen through obstore",
            "see that the bucket has a lifecycle rule with AbortIncompleteMultipartUpload:\n"
            f"gcloud storage buckets describe {bucket} --format='default(lifecycle_config)'",
        )
    if place.kind in ("s3", "gs", "az"):
        yield Finding(
            "obstore-untold",
            Severity.NOTE,
            "obstore does not tell how the bucket is set up: versions, lifecycle rules, who may read it, CORS",
            "for S3, run the doctor once with S3StorageBackend on the same bucket" if place.kind == "s3" else "",
        )


def _command(place: Place, operation: str, *arguments: str) -> str:
    where = ["--endpoint-url", place.endpoint] if place.endpoint else []
    return shlex.join(["aws", "s3api", operation, *where, "--bucket", place.bucket, *arguments])
