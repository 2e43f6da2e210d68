"""What follows from what a bucket says of itself: pure rules."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from granite_core.backends.s3.diagnosis import BucketSettings, judge_bucket
from granite_core.backends.s3.facts import BucketFacts
from granite_core.findings import Finding

BLOCKED = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
UNFINISHED = {
    "ID": "u",
    "Status": "Enabled",
    "Filter": {},
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
}
SOUND = BucketFacts(True, skew=0.0, lifecycle=[UNFINISHED], public_access_block=BLOCKED, encryption="AES256")
AWS = BucketSettings("bucket", "files/", delete_versions=True, public=False)
CEPH = replace(AWS, endpoint="https://ceph.example")


def judge(
    facts: BucketFacts = SOUND,
    settings: BucketSettings = AWS,
    origins: Any = (),
    receives: bool = False,
    **changes: Any,
) -> list[Finding]:
    return list(judge_bucket(replace(facts, **changes), settings, origins, receives=receives))


def said(findings: list[Finding]) -> dict[str, str]:
    return {each.code: each.severity.value for each in findings}


def rule(**more: Any) -> dict[str, Any]:
    return {"ID": "r", "Status": "Enabled", **more}


def argument(finding: Finding, name: str) -> Any:
    """The value of a command's option, as the shell would hand it over."""
    words = shlex.split(finding.advice.splitlines()[-1])
    assert words[:2] == ["aws", "s3api"]
    assert words[words.index("--bucket") + 1] == "bucket"
    return json.loads(words[words.index(name) + 1])


def test_a_sound_bucket_is_found_sound() -> None:
    assert set(said(judge()).values()) == {"ok"}


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        ("404", "no bucket"),
        ("403", "may not be used"),
        ("NoSuchBucket", "no bucket"),
        ("ConnectTimeout", "store is up"),
    ],
)
def test_a_bucket_that_cannot_be_seen_is_all_there_is_to_say(problem: str, says: str) -> None:
    (finding,) = judge(BucketFacts(found=False, problem=problem))
    assert (finding.code, finding.severity) == ("s3-bucket", "error")
    assert says in f"{finding.found} {finding.advice}"


def test_a_clock_that_is_far_off_explains_a_refusal() -> None:
    found = judge(BucketFacts(found=False, problem="RequestTimeTooSkewed", skew=-4000.0))
    assert said(found) == {"s3-clock": "error", "s3-bucket": "error"}
    assert "4000 s behind" in found[0].found


class TestVersions:
    kept = replace(AWS, delete_versions=False)

    def test_versions_that_stay_for_ever_are_an_error_with_the_rule_to_set(self) -> None:
        (finding,) = [each for each in judge(settings=self.kept, versioning="Enabled") if each.code == "s3-versions"]
        assert finding.severity == "error"
        rules = argument(finding, "--lifecycle-configuration")["Rules"]
        assert rules[0] == UNFINISHED, "what is there stays: the command sets all rules"
        assert rules[1]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1}
        assert rules[1]["Filter"] == {"Prefix": "files/"}

    def test_a_rule_for_all_our_objects_is_enough(self) -> None:
        for chosen in ({}, {"Filter": {"Prefix": "files/"}}, {"Prefix": "fi"}, {"Filter": {"And": {"Prefix": ""}}}):
            lifecycle = [UNFINISHED, rule(NoncurrentVersionExpiration={"NoncurrentDays": 9}, **chosen)]
            found = said(judge(settings=self.kept, versioning="Suspended", lifecycle=lifecycle))
            assert found["s3-versions"] == "ok", chosen

    @pytest.mark.parametrize(
        "chosen",
        [
            {"Filter": {"Prefix": "other/"}},
            {"Filter": {"Prefix": "files/a"}},
            {"Filter": {"Tag": {"Key": "a", "Value": "b"}}},
            {"Filter": {"And": {"Prefix": "files/", "ObjectSizeGreaterThan": 5}}},
        ],
    )
    def test_a_rule_for_some_of_them_is_not(self, chosen: dict[str, Any]) -> None:
        lifecycle = [rule(NoncurrentVersionExpiration={"NoncurrentDays": 9}, **chosen)]
        assert said(judge(settings=self.kept, versioning="Enabled", lifecycle=lifecycle))["s3-versions"] == "error"

    def test_what_cannot_be_deleted_is_told_of(self) -> None:
        assert said(judge(versioning="Enabled", mfa_delete=True))["s3-mfa-delete"] == "error"
        assert said(judge(object_lock=True))["s3-object-lock"] == "warning"


class TestRulesThatTakeFilesAway:
    @pytest.mark.parametrize(
        ("chosen", "bad"),
        [
            ({}, True),
            ({"Filter": {"Prefix": "files/private/"}}, True),
            ({"Filter": {"Prefix": "fil"}}, True),
            ({"Filter": {"Tag": {"Key": "a", "Value": "b"}}}, True),
            ({"Filter": {"Prefix": "other/"}}, False),
        ],
    )
    def test_a_rule_that_deletes_what_rows_hold_is_an_error(self, chosen: dict[str, Any], bad: bool) -> None:
        found = judge(lifecycle=[UNFINISHED, rule(Expiration={"Days": 30}, **chosen)])
        assert ("s3-expiry" in said(found)) is bad
        dated = judge(lifecycle=[UNFINISHED, rule(Expiration={"Date": datetime(2030, 1, 1, tzinfo=UTC)}, **chosen)])
        assert ("s3-expiry" in said(dated)) is bad

    def test_removing_markers_takes_nothing_away(self) -> None:
        assert "s3-expiry" not in said(judge(lifecycle=[rule(Expiration={"ExpiredObjectDeleteMarker": True})]))

    def test_a_class_that_cannot_be_read_is_an_error(self) -> None:
        frozen = [rule(Transitions=[{"Days": 30, "StorageClass": "DEEP_ARCHIVE"}])]
        assert said(judge(lifecycle=frozen))["s3-frozen"] == "error"
        assert "s3-frozen" not in said(
            judge(lifecycle=[rule(Transitions=[{"Days": 30, "StorageClass": "STANDARD_IA"}])])
        )


class TestUnfinishedUploads:
    def test_without_a_rule_the_one_to_set_is_told(self) -> None:
        (finding,) = [each for each in judge(settings=CEPH, lifecycle=[]) if each.code == "s3-unfinished"]
        assert finding.severity == "note"
        (added,) = argument(finding, "--lifecycle-configuration")["Rules"]
        assert added["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
        assert "--endpoint-url https://ceph.example" in finding.advice

    def test_where_they_cannot_be_listed_either_it_is_a_warning(self) -> None:
        found = judge(lifecycle=[], untold={"list_multipart_uploads": "AccessDenied"})
        (finding,) = [each for each in found if each.code == "s3-unfinished"]
        assert finding.severity == "warning"
        assert "s3:ListBucketMultipartUploads" in finding.advice
        assert "s3-untold" not in said(found)

    def test_where_rules_are_not_told_nothing_is_claimed(self) -> None:
        found = judge(lifecycle=[], untold={"get_bucket_lifecycle_configuration": "AccessDenied"})
        assert "s3-unfinished" not in said(found)
        (finding,) = [each for each in found if each.code == "s3-untold"]
        assert "s3:GetLifecycleConfiguration" in finding.advice


class TestPublic:
    def test_an_open_bucket_of_private_files_is_an_error(self) -> None:
        (finding,) = [each for each in judge(public=True) if each.code == "s3-public"]
        assert finding.severity == "error"
        assert "put-public-access-block" in finding.advice

    def test_an_open_bucket_that_is_meant_to_be_is_a_warning(self) -> None:
        assert said(judge(settings=replace(AWS, public=True), public=True))["s3-public"] == "warning"

    def test_a_door_that_could_be_opened_is_a_note(self) -> None:
        for block in (None, {**BLOCKED, "BlockPublicPolicy": False}):
            assert said(judge(public_access_block=block))["s3-public"] == "note"


class TestCors:
    page = "https://app.example"

    def given(self, **more: Any) -> dict[str, Any]:
        return {
            "AllowedOrigins": [self.page],
            "AllowedMethods": ["GET", "HEAD"],
            "ExposeHeaders": ["etag", "Content-Range"],
            **more,
        }

    def test_it_is_looked_at_for_those_who_need_it(self) -> None:
        assert "s3-cors" not in said(judge())
        assert said(judge(origins=[self.page]))["s3-cors"] == "warning"
        for pattern in (self.page, "*", "https://*.example", "https://app.*"):
            assert said(judge(origins=[self.page], cors=[self.given(AllowedOrigins=[pattern])]))["s3-cors"] == "ok"

    @pytest.mark.parametrize(
        ("more", "lacks"),
        [
            ({"AllowedOrigins": ["https://other.example"]}, "every right"),
            ({"AllowedMethods": ["GET"]}, "HEAD"),
            ({"ExposeHeaders": ["ETag"]}, "the header Content-Range"),
        ],
    )
    def test_what_is_lacking_is_named_and_the_rule_keeps_the_others(self, more: dict[str, Any], lacks: str) -> None:
        (finding,) = [each for each in judge(origins=[self.page], cors=[self.given(**more)]) if each.code == "s3-cors"]
        assert lacks in finding.found
        rules = argument(finding, "--cors-configuration")["CORSRules"]
        assert rules[0] == self.given(**more)
        assert rules[1]["AllowedOrigins"] == [self.page]

    @pytest.mark.parametrize(
        ("more", "lacks"),
        [
            ({}, "lacks PUT, POST"),
            ({"AllowedMethods": ["GET", "HEAD", "PUT"], "AllowedHeaders": ["*"]}, "lacks POST"),
            ({"AllowedMethods": ["GET", "HEAD", "PUT", "POST"]}, "leave to send the header content-type"),
            (
                {"AllowedMethods": ["GET", "HEAD", "PUT", "POST"], "AllowedHeaders": ["Content-*"]},
                "lacks leave to send the header x-amz-checksum-sha256",
            ),
        ],
    )
    def test_pages_that_send_files_need_more(self, more: dict[str, Any], lacks: str) -> None:
        found = judge(origins=[self.page], receives=True, cors=[self.given(**more)])
        (finding,) = [each for each in found if each.code == "s3-cors"]
        assert lacks in finding.found
        advised = argument(finding, "--cors-configuration")["CORSRules"]
        assert said(judge(origins=[self.page], receives=True, cors=advised))["s3-cors"] == "ok"

    def test_the_documented_rule_is_enough(self) -> None:
        rules = json.loads((Path(__file__).parents[3] / "docs" / "examples" / "direct_cors.json").read_text())
        (page,) = rules["CORSRules"][0]["AllowedOrigins"]
        assert said(judge(origins=[page], receives=True, cors=rules["CORSRules"]))["s3-cors"] == "ok"


def test_encryption_is_asked_for_where_the_store_does_not_do_it_by_itself() -> None:
    assert "s3-encryption" not in said(judge(encryption=""))
    assert said(judge(settings=CEPH, encryption=""))["s3-encryption"] == "note"
