from __future__ import annotations

from pathlib import Path

import pytest

from granite_core import LocalStorageBackend, MemoryStorageBackend, S3StorageBackend, backend_from_url
from granite_core.errors import ConfigurationError


def test_memory() -> None:
    assert isinstance(backend_from_url("memory:"), MemoryStorageBackend)


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backend = backend_from_url("file:var/my%20files")
    assert isinstance(backend, LocalStorageBackend)
    backend.put_bytes("a", b"x")
    assert (tmp_path / "var/my files/a").read_bytes() == b"x"


def test_an_absolute_folder(tmp_path: Path) -> None:
    backend = backend_from_url(f"file://{tmp_path}/files?durable=false")
    backend.put_bytes("a", b"x")
    assert (tmp_path / "files/a").read_bytes() == b"x"
    assert isinstance(backend, LocalStorageBackend)
    assert backend.durable is False


def test_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    backend = backend_from_url(
        "s3://files/a/b/?endpoint_url=http%3A%2F%2F127.0.0.1:9000&region=eu-central-1&part_size=6000000"
        "&atomic_create=false&delete_versions=no"
    )
    assert isinstance(backend, S3StorageBackend)
    assert (backend.bucket, backend.prefix, backend.part_size) == ("files", "a/b/", 6_000_000)
    assert (backend.atomic_create, backend.delete_versions) == (False, False)
    assert backend.identity == ("s3", "127.0.0.1:9000", "files", "a", "b")
    assert backend.client.meta.region_name == "eu-central-1"


def test_a_bucket_of_aws_has_one_identity_under_all_its_names() -> None:
    identities = {backend_from_url(f"s3://files?region={region}").identity for region in ("eu-west-1", "us-east-1")}
    assert identities == {("s3", "aws", "files")}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "files",
        "/srv/files",
        "file:",
        "file://server/share",
        "memory:x",
        "memory://x",
        "memory:?durable=false",
        "s3:",
        "s3:///prefix",
        "s3://bucket/../x",
        "s3://bucket?part_size=1",
        "s3://bucket?part_size=many",
        "s3://bucket?atomic_create=perhaps",
        "s3://bucket?secret=x",
        "s3://bucket/a#b",
        "gs://bucket",
        "file:var?durable=maybe",
        "s3://bucket/" + "x" * 200,
    ],
)
def test_what_is_not_understood_is_an_error(url: str) -> None:
    with pytest.raises(ConfigurationError):
        backend_from_url(url)


def test_credentials_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        backend_from_url("s3://AKIAEXAMPLE:topsecret@bucket/prefix")
    assert "topsecret" not in repr(caught.value)
    assert "AKIA" not in str(caught.value)
