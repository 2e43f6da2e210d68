"""What follows from what a bucket says of itself. Pure; every command in an advice is complete."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from granite_core.backends.s3.facts import BucketFacts
from granite_core.findings import Finding, Severity

__all__ = ["BucketSettings", "judge_bucket"]

OLD_VERSIONS: Final = {
    "ID": "granite-old-versions",
    "Status": "Enabled",
    "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
    "Expiration": {"ExpiredObjectDeleteMarker": True},
}
UNFINISHED: Final = {
    "ID": "granite-unfinished-uploads",
    "Status": "Enabled",
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
}
EXPOSED: Final = ("ETag", "Content-Range", "Accept-Ranges", "Content-Disposition")
SENT: Final = ("content-type", "x-amz-checksum-sha256")
"""Headers that a script sends with a file."""
_FROZEN: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_BLOCKS: Final = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


@dataclass(frozen=True, slots=True)
class BucketSettings:
    """What our side of it is told.

    Args:
        bucket: Its name.
        prefix: What our keys begin with; empty, or with a slash at its end.
        delete_versions: Whether a delete removes every version.
        public: Whether everybody may have the objects from the store.
        endpoint: The store's address; empty for AWS.
    """

    bucket: str
    prefix: str
    delete_versions: bool
    public: bool
    endpoint: str = ""

    def command(self, operation: str, *arguments: str) -> str:
        """Return a command line of the AWS command line interface."""
        where = ["--endpoint-url", self.endpoint] if self.endpoint else []
        return shlex.join(["aws", "s3api", operation, *where, "--bucket", self.bucket, *arguments])


def judge_bucket(
    facts: BucketFacts, settings: BucketSettings, origins: Collection[str] = (), *, receives: bool = False
) -> Iterator[Finding]:
    """Judge a bucket.

    Args:
        facts: What it says of itself.
        settings: What our side is told.
        origins: Where pages come from whose scripts talk to it directly.
        receives: Whether they send files to it.
    """
    yield from _judge_access(facts, settings)
    if not facts.found:
        return
    yield from _judge_versions(facts, settings)
    yield from _judge_expiry(facts, settings)
    yield from _judge_unfinished(facts, settings)
    yield from _judge_public(facts, settings)
    yield from _judge_cors(facts, settings, origins, receives)
    if not facts.encryption and "get_bucket_encryption" not in facts.untold and settings.endpoint:
        rule = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
        command = settings.command("put-bucket-encryption", "--server-side-encryption-configuration", _json(rule))
        yield Finding(
            "s3-encryption", Severity.NOTE, "objects are not encrypted by the store", f"where it can:\n{command}"
        )
    untold = {name: why for name, why in facts.untold.items() if name != "list_multipart_uploads"}
    if untold:
        said = ", ".join(f"{name} ({why})" for name, why in untold.items())
        advice = "where the store knows them, allow " + ", ".join(f"s3:{_action(name)}" for name in untold)
        yield Finding("s3-untold", Severity.NOTE, f"the store does not tell: {said}", advice)


# -- the parts ---------------------------------------------------------------------------------------------------------


def _judge_access(facts: BucketFacts, settings: BucketSettings) -> Iterator[Finding]:
    if facts.skew is not None and abs(facts.skew) > 300:
        way = "ahead of" if facts.skew > 0 else "behind"
        yield Finding(
            "s3-clock",
            Severity.ERROR,
            f"the store's clock is {abs(facts.skew):.0f} s {way} ours: from 900 s on it refuses every request, and "
            "addresses that were signed here end early or late",
            "let both follow NTP (timedatectl status)",
        )
    if facts.found:
        return
    if facts.problem in ("404", "NoSuchBucket"):
        command = settings.command("create-bucket")
        yield Finding("s3-bucket", Severity.ERROR, f"there is no bucket {settings.bucket!r}", f"make it:\n{command}")
    elif facts.problem in ("403", "AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId"):
        said = f"bucket {settings.bucket!r} may not be used with these credentials ({facts.problem})"
        yield Finding(
            "s3-bucket", Severity.ERROR, said, "see the page on S3 for what they must allow; s3:ListBucket first"
        )
    else:
        said = f"bucket {settings.bucket!r} cannot be asked: {facts.problem}"
        yield Finding("s3-bucket", Severity.ERROR, said, "see that the address is right and the store is up")


def _judge_versions(facts: BucketFacts, settings: BucketSettings) -> Iterator[Finding]:
    if facts.mfa_delete and settings.delete_versions:
        yield Finding(
            "s3-mfa-delete",
            Severity.ERROR,
            "deleting a version needs a second factor, which the collector does not have",
            "say delete_versions=False, and leave old versions to a lifecycle rule",
        )
    if facts.object_lock:
        yield Finding(
            "s3-object-lock",
            Severity.WARNING,
            "objects can be locked: one that is cannot be deleted, and the sweep tries it again every day",
            "keep the files in a bucket without object lock, unless they must not be deletable",
        )
    if not facts.versioning:
        return
    if settings.delete_versions:
        yield Finding("s3-versions", Severity.OK, "the bucket keeps versions, and a delete removes them all")
    elif any("NoncurrentVersionExpiration" in each and _covers(each, settings) for each in facts.lifecycle):
        yield Finding("s3-versions", Severity.OK, "the bucket keeps versions, and a rule removes old ones")
    else:
        yield Finding(
            "s3-versions",
            Severity.ERROR,
            "the bucket keeps every version for ever: nothing that is deleted makes room",
            f"say delete_versions=True, or set the rule:\n{_set_rule(facts, settings, OLD_VERSIONS)}",
        )


def _judge_expiry(facts: BucketFacts, settings: BucketSettings) -> Iterator[Finding]:
    for rule in facts.lifecycle:
        name = rule.get("ID") or "without a name"
        if not _touches(rule, settings):
            continue
        expiry = rule.get("Expiration", {})
        if "Days" in expiry or "Date" in expiry:
            when = f"after {expiry['Days']} days" if "Days" in expiry else f"on {expiry['Date']}"
            yield Finding(
                "s3-expiry",
                Severity.ERROR,
                f"lifecycle rule {name!r} deletes objects {when}, whether or not a row holds them",
                "take the rule away, or keep these files from it with a filter; what was let go, the sweep deletes",
            )
        frozen = _FROZEN & {str(each.get("StorageClass")) for each in rule.get("Transitions", ())}
        if frozen:
            yield Finding(
                "s3-frozen",
                Severity.ERROR,
                f"lifecycle rule {name!r} moves objects to {', '.join(sorted(frozen))}, from where they cannot be read",
                "use GLACIER_IR or STANDARD_IA",
            )


def _judge_unfinished(facts: BucketFacts, settings: BucketSettings) -> Iterator[Finding]:
    ruled = any("AbortIncompleteMultipartUpload" in each and _covers(each, settings) for each in facts.lifecycle)
    refused = facts.untold.get("list_multipart_uploads")
    if ruled:
        yield Finding("s3-unfinished", Severity.OK, "a rule removes uploads that were never finished")
        return
    advice = f"set the rule:\n{_set_rule(facts, settings, UNFINISHED)}"
    if refused:
        yield Finding(
            "s3-unfinished",
            Severity.WARNING,
            f"unfinished uploads cannot be listed ({refused}), and no rule removes them: they cost for ever",
            f"allow s3:ListBucketMultipartUploads and s3:AbortMultipartUpload, or {advice}",
        )
    elif "get_bucket_lifecycle_configuration" not in facts.untold:
        said = "no rule removes uploads that were never finished; the reconcile does, when they are a day old"
        yield Finding("s3-unfinished", Severity.NOTE, said, f"for the time when nothing reconciles, {advice}")


def _judge_public(facts: BucketFacts, settings: BucketSettings) -> Iterator[Finding]:
    switches = dict.fromkeys(_BLOCKS, True)
    on = ",".join(f"{name}=true" for name in switches)
    command = settings.command("put-public-access-block", "--public-access-block-configuration", on)
    if facts.public and not settings.public:
        yield Finding(
            "s3-public",
            Severity.ERROR,
            "the bucket's policy lets everybody in: no guard and no signature protects a file",
            f"take that out of the policy (aws s3api get-bucket-policy), then:\n{command}",
        )
    elif facts.public:
        said = "everybody may read the bucket, files of policies that are not public too, where they lie in it"
        yield Finding("s3-public", Severity.WARNING, said, "keep public and private policies in buckets of their own")
    elif "get_public_access_block" not in facts.untold and not settings.public:
        blocked = facts.public_access_block or {}
        if not all(blocked.get(name) for name in _BLOCKS):
            said = "the bucket is private, but nothing forbids making it public"
            yield Finding("s3-public", Severity.NOTE, said, command)
        else:
            yield Finding("s3-public", Severity.OK, "the bucket is private and stays so")


def _judge_cors(
    facts: BucketFacts, settings: BucketSettings, origins: Collection[str], receives: bool
) -> Iterator[Finding]:
    if not origins or "get_bucket_cors" in facts.untold:
        return
    may = "read from the store, and send files to it" if receives else "read from the store"
    methods = ["GET", "HEAD", "PUT", "POST"] if receives else ["GET", "HEAD"]
    sent = SENT if receives else ()
    lacking = {origin: missing for origin in origins if (missing := _lacking(facts.cors, origin, methods, sent))}
    if not lacking:
        yield Finding("s3-cors", Severity.OK, f"scripts of {', '.join(origins)} may {may}")
        return
    said = "; ".join(f"{origin} lacks {', '.join(missing)}" for origin, missing in lacking.items())
    rule = {
        "AllowedOrigins": list(origins),
        "AllowedMethods": methods,
        "AllowedHeaders": ["*"],
        "ExposeHeaders": list(EXPOSED),
        "MaxAgeSeconds": 3600,
    }
    command = settings.command("put-bucket-cors", "--cors-configuration", _json({"CORSRules": [*facts.cors, rule]}))
    yield Finding("s3-cors", Severity.WARNING, f"scripts may not {may}: {said}", f"set the rule:\n{command}")


def _lacking(rules: Sequence[Mapping[str, Any]], origin: str, methods: Sequence[str], sent: Sequence[str]) -> list[str]:
    """What of a browser's needs no rule for an origin gives: methods, and headers that a script may see or send."""
    ours = [rule for rule in rules if any(_matches(pattern, origin) for pattern in rule.get("AllowedOrigins", ()))]
    if not ours:
        return ["every right"]
    given = {method for rule in ours for method in rule.get("AllowedMethods", ())}
    exposed = {header.lower() for rule in ours for header in rule.get("ExposeHeaders", ())}
    missing = [method for method in methods if method not in given]
    missing += [f"the header {name}" for name in EXPOSED[:2] if name.lower() not in exposed]
    if sent and "PUT" in given:  # a browser asks for a method and its headers at once: one rule must give both
        allowed = [rule.get("AllowedHeaders", ()) for rule in ours if "PUT" in rule.get("AllowedMethods", ())]
        takes = [[name for name in sent if not any(_matches(each.lower(), name) for each in some)] for some in allowed]
        missing += [f"leave to send the header {name}" for name in min(takes, key=len)]
    return missing


def _matches(pattern: str, origin: str) -> bool:
    """Match an origin as S3 does: one star at most (S3 API, "CORSRule")."""
    before, star, after = pattern.partition("*")
    if not star:
        return pattern == origin
    return origin.startswith(before) and origin.endswith(after) and len(origin) >= len(before) + len(after)


# -- lifecycle rules ---------------------------------------------------------------------------------------------------


def _filter_of(rule: Mapping[str, Any]) -> tuple[str, bool]:
    """The prefix of a rule, and whether it looks at anything else."""
    chosen = rule.get("Filter", {})
    both = chosen.get("And", {})
    prefix = rule.get("Prefix") or chosen.get("Prefix") or both.get("Prefix") or ""
    names = {*chosen, *both} - {"Prefix", "And"}
    return str(prefix), bool(names)


def _covers(rule: Mapping[str, Any], settings: BucketSettings) -> bool:
    """Whether a rule is for all of our objects."""
    prefix, narrowed = _filter_of(rule)
    return settings.prefix.startswith(prefix) and not narrowed


def _touches(rule: Mapping[str, Any], settings: BucketSettings) -> bool:
    """Whether a rule is for any of our objects."""
    prefix, _ = _filter_of(rule)
    return settings.prefix.startswith(prefix) or prefix.startswith(settings.prefix)


def _set_rule(facts: BucketFacts, settings: BucketSettings, rule: Mapping[str, Any]) -> str:
    """The command that adds a rule. It sets all of them, so those that are there are in it."""
    ours = {**rule, "Filter": {"Prefix": settings.prefix}}
    rules = _json({"Rules": [*facts.lifecycle, ours]})
    return settings.command("put-bucket-lifecycle-configuration", "--lifecycle-configuration", rules)


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, default=lambda each: each.isoformat())


def _action(operation: str) -> str:
    """The permission that an operation needs, by its name in IAM."""
    named = {
        "get_bucket_lifecycle_configuration": "GetLifecycleConfiguration",
        "get_bucket_cors": "GetBucketCORS",
        "get_public_access_block": "GetBucketPublicAccessBlock",
        "get_bucket_encryption": "GetEncryptionConfiguration",
        "get_object_lock_configuration": "GetBucketObjectLockConfiguration",
    }
    return named.get(operation) or "".join(part.title() for part in operation.split("_"))
