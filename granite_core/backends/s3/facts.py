"""What a bucket says of itself: asked without changing anything, and without minding what it does not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from granite_core.backends.s3.answers import ask
from granite_core.backends.s3.client import boto_errors, error_code, http_status

__all__ = ["BucketFacts", "ask_bucket"]

_NOT_SET: Final = frozenset(
    {
        *("NoSuchLifecycleConfiguration", "NoSuchCORSConfiguration", "NoSuchPublicAccessBlockConfiguration"),
        *("ServerSideEncryptionConfigurationNotFoundError", "NoSuchBucketPolicy"),
        *("ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"),
    }
)


@dataclass(frozen=True, slots=True)
class BucketFacts:
    """What a bucket says of itself. What it does not tell is empty here, and its operation is in ``untold``.

    Args:
        found: Whether there is such a bucket, that we may see.
        problem: Why it cannot be seen.
        skew: Seconds by which the store's clock is ahead of ours.
        versioning: ``"Enabled"``, ``"Suspended"`` or empty.
        mfa_delete: Whether deleting a version needs a second factor.
        lifecycle: Its rules.
        cors: Its rules for scripts of other origins.
        public_access_block: Its four switches; None where there are none.
        public: Whether its policy lets everybody in.
        encryption: How objects are encrypted unless they say otherwise; empty where they are not.
        object_lock: Whether objects can be locked.
        untold: Operations that the store refused or does not know, with its words for that.
    """

    found: bool
    problem: str = ""
    skew: float | None = None
    versioning: str = ""
    mfa_delete: bool = False
    lifecycle: Sequence[Mapping[str, Any]] = ()
    cors: Sequence[Mapping[str, Any]] = ()
    public_access_block: Mapping[str, bool] | None = None
    public: bool = False
    encryption: str = ""
    object_lock: bool = False
    untold: Mapping[str, str] = field(default_factory=dict)


class _Questions:
    def __init__(self, client: Any, bucket: str, owner: Mapping[str, Any]) -> None:
        self._client = client
        self._arguments = {"Bucket": bucket, **owner}
        self.untold: dict[str, str] = {}
        self.skew: float | None = None
        self.missing = ""

    def ask(self, operation: str, **more: Any) -> Mapping[str, Any]:
        before = datetime.now(UTC)
        try:
            answer: Mapping[str, Any] = ask(self._client, operation, **self._arguments, **more)
        except boto_errors() as error:
            self._see_clock(getattr(error, "response", None), before)
            code = error_code(error)
            if code not in _NOT_SET:
                self.untold[operation] = code or (f"HTTP {http_status(error)}" if http_status(error) else str(error))
            return {}
        self._see_clock(answer, before)
        return answer

    def _see_clock(self, answer: Any, before: datetime) -> None:
        """Compare the ``Date`` of an answer (RFC 9110 §6.6.1: whole seconds) with our clock."""
        headers = (answer or {}).get("ResponseMetadata", {}).get("HTTPHeaders", {}) if isinstance(answer, dict) else {}
        if self.skew is not None or "date" not in headers:
            return
        try:
            theirs = parsedate_to_datetime(headers["date"])
        except ValueError:
            return
        early, late = (theirs - before).total_seconds() + 1, (theirs - datetime.now(UTC)).total_seconds()
        self.skew = 0.0 if late <= 0 <= early else late if late > 0 else early


def ask_bucket(client: Any, bucket: str, prefix: str, owner: Mapping[str, Any]) -> BucketFacts:
    """Ask a bucket about itself: a dozen small requests.

    Args:
        client: A boto3 client.
        bucket: Its name.
        prefix: What our keys begin with.
        owner: Arguments that every request takes (``ExpectedBucketOwner``).
    """
    questions = _Questions(client, bucket, {name: each for name, each in owner.items() if name != "RequestPayer"})
    questions.ask("head_bucket")
    if problem := questions.untold.pop("head_bucket", ""):
        return BucketFacts(found=False, problem=problem, skew=questions.skew)
    versioning = questions.ask("get_bucket_versioning")
    lifecycle = questions.ask("get_bucket_lifecycle_configuration")
    cors = questions.ask("get_bucket_cors")
    block = questions.ask("get_public_access_block")
    policy = questions.ask("get_bucket_policy_status")
    encryption = questions.ask("get_bucket_encryption")
    lock = questions.ask("get_object_lock_configuration")
    questions.ask("list_multipart_uploads", Prefix=prefix, MaxUploads=1)
    rules = encryption.get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
    by_default = rules[0].get("ApplyServerSideEncryptionByDefault", {}) if rules else {}
    return BucketFacts(
        found=True,
        skew=questions.skew,
        versioning=versioning.get("Status", ""),
        mfa_delete=versioning.get("MFADelete") == "Enabled",
        lifecycle=[each for each in lifecycle.get("Rules", []) if each.get("Status") == "Enabled"],
        cors=cors.get("CORSRules", []),
        public_access_block=block.get("PublicAccessBlockConfiguration"),
        public=bool(policy.get("PolicyStatus", {}).get("IsPublic")),
        encryption=by_default.get("SSEAlgorithm", ""),
        object_lock=lock.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled",
        untold=questions.untold,
    )
