"""Addresses that S3 answers: the arithmetic, and what is asked of the client."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore import UNSIGNED
from botocore.auth import S3SigV4PostAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config

from granite_core import AccessDeniedError, Capability, ConfigurationError, S3StorageBackend, backend_from_url
from granite_core.backends._sigv4 import SigningKey, sign

STARTS = datetime(2013, 5, 24, tzinfo=UTC)
DAY = timedelta(days=1)
NO_MORE_CHECKSUMS = {"request_checksum_calculation": "when_required"}


def client(endpoint: str | None = None, region: str = "eu-central-1", **config: Any) -> Any:
    session = boto3.session.Session(
        aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
        aws_secret_access_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        aws_session_token=config.pop("token", None),
    )
    return session.client("s3", endpoint_url=endpoint, region_name=region, config=Config(**config))


def address_of(backend: S3StorageBackend, location: str = "a/b", **request: Any) -> str:
    return backend.presign_get(location, **{"starts": STARTS, "expires_in": DAY, **request})


def test_the_example_of_the_s3_api_comes_out() -> None:
    key = SigningKey("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None, "us-east-1")
    address = "https://examplebucket.s3.amazonaws.com/test.txt"
    signed = sign(address, {}, key, method="GET", starts=STARTS, expires_in=DAY)
    assert signed.endswith("X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")


@pytest.mark.parametrize("token", [None, "a/session+token=="])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_botocore_signs_the_same(method: Any, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    made = client(signature_version="s3v4", token=token, s3={"addressing_style": "virtual"})
    ours = address_of(
        S3StorageBackend("bucket", "prefix", made), "a/b c+d.txt", method=method, content_type="text/plain"
    )
    asked = {name: values[0] for name, values in parse_qs(urlsplit(ours).query).items()}
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: STARTS)
    params = {
        "Bucket": "bucket",
        "Key": "prefix/a/b c+d.txt",
        "ResponseContentType": "text/plain",
        "ResponseExpires": datetime(2013, 5, 25, tzinfo=UTC),
    }
    theirs = made.generate_presigned_url("get_object", Params=params, ExpiresIn=86400, HttpMethod=method)
    assert asked == {name: values[0] for name, values in parse_qs(urlsplit(theirs).query).items()}
    assert urlsplit(ours)[:3] == urlsplit(theirs)[:3]


SHA256 = "sha256:" + hashlib.sha256(b"0123456789").hexdigest()
IN_BASE64 = base64.b64encode(hashlib.sha256(b"0123456789").digest()).decode()


@pytest.mark.parametrize("token", [None, "a/session+token=="])
@pytest.mark.parametrize("style", ["virtual", "path"])
@pytest.mark.parametrize("said", [True, False], ids=["with type and checksum", "plain"])
def test_botocore_signs_the_same_put(
    said: bool, style: str, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = client(signature_version="s3v4", token=token, s3={"addressing_style": style}, **NO_MORE_CHECKSUMS)
    described = {"content_type": "text/plain", "checksum": SHA256} if said else {}
    ours = S3StorageBackend("bucket", "prefix", made).presign_put(
        "a/b c+d~ü.txt", starts=STARTS, expires_in=DAY, size=10, **described
    )
    asked = {"ContentType": "text/plain", "ChecksumSHA256": IN_BASE64} if said else {}
    params = {"Bucket": "bucket", "Key": "prefix/a/b c+d~ü.txt", "ContentLength": 10, **asked}
    theirs = signed_by_botocore(made, "put_object", params, monkeypatch)
    assert as_signed(ours.url) == as_signed(theirs)
    assert ours.headers == ({"Content-Type": "text/plain", "x-amz-checksum-sha256": IN_BASE64} if said else {})


@pytest.mark.parametrize("token", [None, "a/session+token=="])
def test_botocore_signs_the_same_part(token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    made = client(signature_version="s3v4", token=token, s3={"addressing_style": "virtual"}, **NO_MORE_CHECKSUMS)
    ours = S3StorageBackend("bucket", "prefix", made).presign_part(
        "a/b", "an+upload/id==", 7, starts=STARTS, expires_in=DAY, size=10
    )
    params = {"Bucket": "bucket", "Key": "prefix/a/b", "UploadId": "an+upload/id==", "PartNumber": 7}
    theirs = signed_by_botocore(made, "upload_part", {**params, "ContentLength": 10}, monkeypatch)
    assert as_signed(ours.url) == as_signed(theirs)


@pytest.mark.parametrize("token", [None, "a/session+token=="])
@pytest.mark.parametrize("redirect", [None, "https://app.example/done?a=b"])
def test_botocore_signs_the_same_form(redirect: str | None, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    made = client(signature_version="s3v4", token=token, s3={"addressing_style": "virtual"})
    ours = S3StorageBackend("bucket", "prefix", made).presign_post(
        "a/b ü.txt",
        starts=STARTS,
        expires_in=DAY,
        min_size=1,
        max_size=10,
        content_type="text/plain",
        checksum=SHA256,
        redirect=redirect,
    )
    ends = {"success_action_redirect": redirect} if redirect else {"success_action_status": "204"}
    fields = {**ends, "Content-Type": "text/plain", "x-amz-checksum-sha256": IN_BASE64}
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: STARTS)
    theirs = made.generate_presigned_post(
        "bucket",
        "prefix/a/b ü.txt",
        Fields=fields,
        Conditions=[*({name: text} for name, text in fields.items()), ["content-length-range", 1, 10]],
        ExpiresIn=86400,
    )
    assert ours.url == theirs["url"]
    made_of = policy_of(ours.fields), policy_of(theirs["fields"])
    assert made_of[0]["expiration"] == "2013-05-25T00:00:00.000Z"
    assert sorted(map(str, made_of[0]["conditions"])) == sorted(map(str, made_of[1]["conditions"]))
    lasting = {"policy", "x-amz-signature"}
    assert {name: text for name, text in ours.fields.items() if name not in lasting} == {
        name: text for name, text in theirs["fields"].items() if name not in lasting
    }
    # The order of conditions is nobody's business, but makes another text: theirs, of our text, is our signature.
    signer = S3SigV4PostAuth(made._request_signer._credentials, "s3", "eu-central-1")
    request = AWSRequest(method="POST")
    request.context["timestamp"] = "20130524T000000Z"
    assert signer.signature(ours.fields["policy"], request) == ours.fields["x-amz-signature"]


def signed_by_botocore(made: Any, verb: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: STARTS)
    signed: str = made.generate_presigned_url(verb, Params=params, ExpiresIn=86400)
    return signed


def as_signed(address: str) -> tuple[str, dict[str, list[str]]]:
    """An address without the order of its query."""
    parts = urlsplit(address)
    return parts._replace(query="").geturl(), parse_qs(parts.query)


def policy_of(fields: Mapping[str, str]) -> Any:
    return json.loads(base64.b64decode(fields["policy"]))


@pytest.mark.parametrize(
    ("made", "begins"),
    [
        (client(), "https://bucket.s3.eu-central-1.amazonaws.com/p/a/b?"),
        (client(region="us-east-1"), "https://bucket.s3.amazonaws.com/p/a/b?"),
        (client(region="cn-north-1"), "https://bucket.s3.cn-north-1.amazonaws.com.cn/p/a/b?"),
        (
            client(region="ca-central-1", use_fips_endpoint=True),
            "https://bucket.s3-fips.ca-central-1.amazonaws.com/p/a",
        ),
        (client(region="us-east-1", use_fips_endpoint=True), "https://bucket.s3-fips.us-east-1.amazonaws.com/p/a/b?"),
        (client(s3={"use_accelerate_endpoint": True}), "https://bucket.s3-accelerate.amazonaws.com/p/a/b?"),
        (client(s3={"addressing_style": "path"}), "https://s3.eu-central-1.amazonaws.com/bucket/p/a/b?"),
        (client("http://127.0.0.1:9000"), "http://127.0.0.1:9000/bucket/p/a/b?"),
        (client("https://store.example:443/x/"), "https://store.example/x/bucket/p/a/b?"),
        (client("https://store.example", s3={"addressing_style": "virtual"}), "https://bucket.store.example/p/a/b?"),
    ],
)
def test_an_address_is_where_the_client_finds_the_bucket(made: Any, begins: str) -> None:
    assert address_of(S3StorageBackend("bucket", "p", made)).startswith(begins)


@pytest.mark.parametrize(
    ("style", "begins"),
    [("path", "https://files.example/s3/bucket/a/b?"), ("virtual", "https://bucket.files.example/s3/a/b?")],
)
def test_browsers_may_see_the_store_elsewhere(style: str, begins: str) -> None:
    made = client("http://minio:9000", s3={"addressing_style": style})
    backend = S3StorageBackend("bucket", client=made, presign_endpoint_url="https://files.example/s3/")
    assert address_of(backend).startswith(begins)


def test_the_old_signature_is_never_used() -> None:
    assert "X-Amz-Signature=" in address_of(S3StorageBackend("bucket", client=client(region="us-east-1")))
    assert "%2Fus-east-1%2Fs3%2F" in address_of(S3StorageBackend("bucket", client=client(region="aws-global")))


def test_who_asks_pays_where_the_bucket_wants_it() -> None:
    backend = S3StorageBackend("bucket", client=client(), extra_put_kwargs={"RequestPayer": "requester"})
    assert "&x-amz-request-payer=requester&" in address_of(backend)


def test_without_credentials_nothing_is_signed(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for config in (Config(), Config(signature_version=UNSIGNED)):
        made = boto3.session.Session().client("s3", region_name="eu-central-1", config=config)
        with pytest.raises(AccessDeniedError):
            address_of(S3StorageBackend("bucket", client=made))


@pytest.mark.parametrize(
    "backend",
    [
        S3StorageBackend("bucket", client=client(), extra_put_kwargs={"SSECustomerKey": "x" * 32}),
        S3StorageBackend("arn:aws:s3:us-west-2:123456789012:accesspoint/a", client=client()),
        S3StorageBackend("bucket--usw2-az1--x-s3", client=client()),
    ],
)
def test_what_cannot_be_signed_for_is_not_claimed(backend: S3StorageBackend) -> None:
    presigned = {each for each in Capability if each.value.startswith("presigned")}
    assert len(presigned) == 4
    assert not presigned & backend.capabilities
    with pytest.raises(ConfigurationError):
        address_of(backend)
    for asked in (backend.presign_put, backend.presign_post):
        with pytest.raises(ConfigurationError):
            asked("a/b", starts=STARTS, expires_in=DAY, **{"size" if asked == backend.presign_put else "max_size": 1})
    with pytest.raises(ConfigurationError):
        backend.begin_parts("a/b")


def test_a_public_address_has_the_whole_key() -> None:
    backend = backend_from_url("s3://bucket/some/where?public_url=https%3A%2F%2Fcdn.example%2Fx%2F")
    assert Capability.PUBLIC_ADDRESS in backend.capabilities
    assert backend.public_address("a/b ü+.png") == "https://cdn.example/x/some/where/a/b%20%C3%BC%2B.png"
    assert Capability.PUBLIC_ADDRESS not in S3StorageBackend("bucket").capabilities
    assert S3StorageBackend("bucket").public_address("a") is None


@pytest.mark.parametrize("address", ["cdn.example", "ftp://cdn.example", "https://", "https://cdn.example/?a=b"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    for name in ("public_url", "presign_endpoint_url"):
        with pytest.raises(ConfigurationError, match=name):
            S3StorageBackend("bucket", **{name: address})


def test_a_key_of_signatures_shows_no_secret() -> None:
    assert "hidden" not in repr(SigningKey("id", "hidden", "hidden", "here"))
