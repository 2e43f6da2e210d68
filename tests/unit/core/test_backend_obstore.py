"""The obstore backend's decisions, without a store."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, MemoryStore, S3Store

from granite_core import Capability, LocalStorageBackend, ObstoreStorageBackend, S3StorageBackend, backend_from_url
from granite_core.backends.obstore.library import failure
from granite_core.backends.obstore.listing import listed, lower_bound
from granite_core.backends.obstore.memory import PartMemory
from granite_core.backends.s3 import BufferBudget
from granite_core.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    InvalidKeyError,
    MissingExtraError,
    ObjectNotFoundError,
    StorageError,
    StorageFullError,
)

MIB = 1024 * 1024
SECRET = "Object at location a/b: Error performing GET http://user:secret@host/bucket/a/b in 1.2ms - "
REQUEST: dict[str, Any] = {"starts": datetime(2026, 1, 1, tzinfo=UTC), "expires_in": timedelta(days=1)}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [each for each in os.environ if each.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)


def status(number: int, code: str = "") -> str:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Key>a/b</Key></Error>' if code else ""
    return f"{SECRET}Server returned non-2xx status code: {number} Something: {body}\n\nDebug source:\nstatus: 404"


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (FileNotFoundError(status(404, "NoSuchKey")), ObjectNotFoundError),
            (FileNotFoundError(status(404)), BackendUnavailableError),  # no answer of the store's
            (FileNotFoundError(status(404).replace("GET", "HEAD")), ObjectNotFoundError),
            (FileNotFoundError(status(404, "NoSuchBucket")), BackendError),
            (FileNotFoundError(status(404, "NoSuchUpload")), BackendError),
            (FileNotFoundError(status(404, "ContainerNotFound")), BackendError),
            (exceptions.PermissionDeniedError(status(403, "AccessDenied")), AccessDeniedError),
            (exceptions.UnauthenticatedError(status(401)), AccessDeniedError),
            (exceptions.GenericError(status(400, "ExpiredToken")), AccessDeniedError),
            (exceptions.GenericError(status(503, "SlowDown")), BackendUnavailableError),
            (exceptions.GenericError(status(500, "InternalError")), BackendUnavailableError),
            (exceptions.GenericError(status(429)), BackendUnavailableError),
            (exceptions.GenericError(status(400, "RequestTimeout")), BackendUnavailableError),
            (exceptions.GenericError(status(507)), StorageFullError),
            (exceptions.GenericError(status(403, "QuotaExceeded")), StorageFullError),
            (exceptions.GenericError(status(400, "BadDigest")), BackendUnavailableError),
            (exceptions.GenericError(status(302)), BackendUnavailableError),
            (exceptions.GenericError("Generic S3 error: Unable to extract metadata: ETag"), BackendUnavailableError),
            (exceptions.GenericError('Path "secret//b" contained empty path segment'), BackendError),
            (exceptions.GenericError(status(501, "NotImplemented")), BackendError),
            (exceptions.GenericError(status(400, "EntityTooLarge")), BackendError),
            (exceptions.GenericError(f"{SECRET}HTTP error: error sending request"), BackendUnavailableError),
            (
                exceptions.GenericError("Generic S3 error\n\nDebug source: HttpError { secret }"),
                BackendUnavailableError,
            ),
            (
                exceptions.GenericError("PUT http://169.254.169.254/latest/api/token - HTTP error: secret"),
                AccessDeniedError,
            ),
            (exceptions.GenericError("Generic LocalFileSystem error: secret (os error 13)"), AccessDeniedError),
            (exceptions.GenericError("Generic LocalFileSystem error: secret (os error 20)"), ObjectNotFoundError),
            (exceptions.GenericError("Generic LocalFileSystem error: secret (os error 28)"), StorageFullError),
            (exceptions.PreconditionError(status(412)), BackendError),
            (exceptions.NotSupportedError("secret"), BackendError),
            (NotImplementedError("secret"), BackendError),
        ],
    )
    def test_each_means_what_the_caller_can_do_next(self, error: Exception, expected: type[StorageError]) -> None:
        found = failure(error, "get", "a/b", key="a/b")
        assert type(found) is expected
        assert (found.operation, found.location) == ("get", "a/b")
        assert "secret" not in f"{found} {found!r}"

    def test_what_a_key_says_is_not_taken_for_the_stores_word(self) -> None:
        key = "Server returned non-2xx status code: 403 <Code>AccessDenied</Code>"
        text = status(404, "NoSuchKey").replace("Object at location a/b", f"Object at location {key}")
        assert type(failure(FileNotFoundError(text), "get", key, key=key)) is ObjectNotFoundError
        text = text.replace("404", "503").replace("NoSuchKey", "SlowDown")
        assert type(failure(exceptions.GenericError(text), "get", key, key=key)) is BackendUnavailableError

    @pytest.mark.parametrize("key", ["a", "p", "Code", "o"])
    def test_a_short_key_takes_nothing_from_what_the_store_says(self, key: str) -> None:
        text = status(404, "NoSuchUpload").replace("a/b", key, 1)
        assert "NoSuchUpload (HTTP 404)" in str(failure(FileNotFoundError(text), "commit", key, key=key))


class TestWhere:
    @pytest.mark.parametrize(
        ("ours", "boto3"),
        [
            ({"store": "s3://files/a/b/"}, {"bucket": "files", "prefix": "a/b"}),
            ({"store": "s3://files/a", "prefix": "/b/"}, {"bucket": "files", "prefix": "a/b"}),
            ({"store": "s3://files", "region": "eu-west-1"}, {"bucket": "files", "region": "eu-central-1"}),
            (
                {"store": "s3://files", "endpoint_url": "http://user:pass@Host:9000/"},
                {"bucket": "files", "endpoint_url": "http://host:9000"},
            ),
            (
                {"store": "s3://files", "endpoint_url": "https://s3.eu-west-1.amazonaws.com"},
                {"bucket": "files", "region": "eu-west-1"},
            ),
        ],
    )
    def test_a_bucket_is_the_same_as_boto3s(self, ours: dict[str, Any], boto3: dict[str, Any]) -> None:
        boto3 = {"region": "us-east-1", **boto3}
        assert ObstoreStorageBackend(**ours).identity == S3StorageBackend(**boto3).identity

    def test_a_given_store_is_where_its_settings_and_the_environment_say(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        virtual = {"endpoint": "https://files.minio.example:9000", "virtual_hosted_style_request": "true"}
        for store, expected in (
            (S3Store("files"), ("s3", "aws", "files")),
            (S3Store("files", prefix="a/b"), ("s3", "aws", "files", "a", "b")),
            (S3Store("files", config=virtual), ("s3", "minio.example:9000", "files")),
            (GCSStore("files", prefix="a", skip_signature=True), ("gs", "files", "a")),
            (AzureStore("files", account_name="me", account_key="c2VjcmV0"), ("az", "me", "files")),
            (LocalStore(tmp_path), LocalStorageBackend(tmp_path).identity),
        ):
            assert ObstoreStorageBackend(store).identity == expected
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://elsewhere:1")
        assert ObstoreStorageBackend(S3Store("files")).identity == ("s3", "elsewhere:1", "files")
        assert ObstoreStorageBackend("s3://files").identity == ("s3", "elsewhere:1", "files")

    def test_one_store_in_memory_is_one_place(self) -> None:
        store = MemoryStore()
        assert ObstoreStorageBackend(store).identity == ObstoreStorageBackend(store).identity
        assert ObstoreStorageBackend(store).identity != ObstoreStorageBackend(MemoryStore()).identity

    @pytest.mark.parametrize("scheme", ["s3", "obstore+s3"])
    def test_one_word_changes_a_url_from_one_backend_to_the_other(self, scheme: str) -> None:
        backend: Any = backend_from_url(
            f"{scheme}://files/a%20b/?endpoint_url=http%3A%2F%2F127.0.0.1:9000&region=eu-central-1&part_size=6000000"
            "&atomic_create=false&delete_versions=no&public_url=https%3A%2F%2Fcdn.example"
        )
        assert (backend.prefix, backend.part_size) == ("a b/", 6_000_000)
        assert (backend.atomic_create, backend.delete_versions) == (False, False)
        assert backend.identity == ("s3", "127.0.0.1:9000", "files", "a b")
        assert backend.public_address("c") == "https://cdn.example/a%20b/c"

    def test_other_stores_have_urls_too(self) -> None:
        assert backend_from_url("obstore+gs://files/a").identity == ("gs", "files", "a")
        assert backend_from_url("obstore+az://me/files/a/b?part_size=6000000").identity == (
            "az",
            "me",
            "files",
            "a",
            "b",
        )

    @pytest.mark.parametrize(
        "url",
        [
            "obstore+s3:///prefix",
            "obstore+s3://bucket?part_size=1",
            "obstore+s3://bucket?secret=x",
            "obstore+gs://bucket?region=x",
            "obstore+az://account",
            "obstore+file:///srv",
            "obstore://bucket",
            "obstore+s3://key:topsecret@bucket",
            "obstore+s3://bucket/../x",
        ],
    )
    def test_what_is_not_understood_is_an_error(self, url: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            backend_from_url(url)
        assert "topsecret" not in repr(caught.value)

    @pytest.mark.parametrize(
        "options",
        [
            {"store": "s3://bucket", "part_size": 1},
            {"store": "s3://bucket", "prefix": "a/../b"},
            {"store": "https://bucket.example"},
            {"store": "gs://bucket", "region": "x"},
            {"store": MemoryStore(), "endpoint_url": "http://x"},
            {"store": HTTPStore("https://bucket.example")},
            {"store": object()},
            {"store": "s3://bucket", "public_url": "cdn.example"},
        ],
    )
    def test_what_cannot_work_is_refused_at_once(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError):
            ObstoreStorageBackend(**options)


class TestAddresses:
    KEYS = {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "secret"}

    def boto3(self, monkeypatch: pytest.MonkeyPatch, bucket: str, **options: Any) -> S3StorageBackend:
        for name, value in self.KEYS.items():
            monkeypatch.setenv(f"AWS_{name.upper()}", value)
        return S3StorageBackend(bucket, "p", region="eu-central-1", **options)

    @pytest.mark.parametrize("seen_at", [None, "https://files.example/store"])
    @pytest.mark.parametrize("bucket", ["files", "files.example"])
    @pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:9000"])
    def test_are_those_of_the_other_backend(
        self, monkeypatch: pytest.MonkeyPatch, endpoint: str | None, bucket: str, seen_at: str | None
    ) -> None:
        options: dict[str, Any] = {"endpoint_url": endpoint, "presign_endpoint_url": seen_at}
        theirs = self.boto3(monkeypatch, bucket, **options)
        ours = ObstoreStorageBackend(f"s3://{bucket}/p", region="eu-central-1", **options)
        for asked in ({}, {"content_type": "text/plain", "content_disposition": "inline", "cache_control": "no-store"}):
            assert ours.presign_get("a b/c", **REQUEST, **asked) == theirs.presign_get("a b/c", **REQUEST, **asked)

    def test_are_claimed_where_it_is_known_who_signs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def slowly() -> Any: ...

        claims = {
            "nobody": ObstoreStorageBackend("s3://files"),
            "a coroutine": ObstoreStorageBackend(S3Store("files", credential_provider=slowly)),
            "another store": ObstoreStorageBackend("gs://files"),
            "settings": ObstoreStorageBackend(S3Store("files", config=self.KEYS)),
            "a function": ObstoreStorageBackend(S3Store("files", credential_provider=dict)),
        }
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        claims["the environment"] = ObstoreStorageBackend("s3://files")
        signing = {name for name, each in claims.items() if Capability.PRESIGNED_GET in each.capabilities}
        assert signing == {"settings", "a function", "the environment"}
        with pytest.raises(ConfigurationError):
            claims["nobody"].presign_get("a", **REQUEST)

    def test_credentials_of_a_function_are_asked_for_again_before_they_end(self) -> None:
        ends, asked = [datetime.now(UTC) + timedelta(hours=1)], []

        def provide() -> Any:
            asked.append(1)
            return {**self.KEYS, "token": f"token{len(asked)}", "expires_at": ends[0]}

        backend = ObstoreStorageBackend(S3Store("files", credential_provider=provide))
        assert "token1" in backend.presign_get("a", **REQUEST)
        assert "token1" in backend.presign_get("b", **REQUEST)
        ends[0] = datetime.now(UTC) + timedelta(minutes=1)
        backend._signer._kept = None
        assert "token2" in backend.presign_get("a", **REQUEST)
        assert "token3" in backend.presign_get("a", **REQUEST)

    def test_say_so_where_the_function_fails(self) -> None:
        def provide() -> Any:
            raise RuntimeError("secret")

        backend = ObstoreStorageBackend(S3Store("files", credential_provider=provide))
        with pytest.raises(AccessDeniedError) as caught:
            backend.presign_get("a", **REQUEST)
        assert "secret" not in str(caught.value)


class Pages:
    """A library whose store lists these keys."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys
        self.asked: list[Any] = []

    def list(self, _: object, prefix: str | None, *, offset: str | None, chunk_size: int) -> Any:
        self.asked.append((prefix, offset))
        keys = [key for key in self.keys if key.rstrip("*") > (offset or "")]
        entries = ({"path": key.rstrip("*"), "size": 0 if key.endswith("*") else 1} for key in keys)
        while page := list(islice(entries, 2)):
            yield page


class TestListing:
    def found(self, library: Pages, prefix: str = "", after: str = "", absent: str = "") -> list[str]:
        return [each["path"] for each in listed(library, None, prefix, after, lambda key: key != absent)]

    @given(st.text(), st.text())
    def test_a_lower_bound_comes_before_whatever_comes_after_the_text(self, text: str, more: str) -> None:
        assert lower_bound(text) <= text
        assert all(each not in ("", ".", "..") for each in lower_bound(text).split("/")) or not lower_bound(text)
        assert lower_bound(lower_bound(text)) == lower_bound(text)

    @pytest.mark.parametrize(
        ("prefix", "after", "asked"),
        [
            ("", "", (None, None)),
            ("doc", "", (None, "do")),
            ("a/doc", "", ("a", "a/do")),
            ("a/", "a/b/", ("a", "a/b")),
            ("a/", "a/\x00b", ("a", "a")),
            ("a/b", "a/c", ("a", "a/c")),
        ],
    )
    def test_the_store_is_asked_for_no_more_than_needed(self, prefix: str, after: str, asked: tuple[Any, Any]) -> None:
        library = Pages()
        self.found(library, prefix, after)
        assert library.asked == [asked, asked]

    def test_an_end_is_believed_when_it_is_said_again(self) -> None:
        answers = iter([Pages(), Pages("c", "d"), Pages("e"), Pages()])

        class Interrupted(Pages):
            def list(self, *arguments: Any, **options: Any) -> Any:
                return next(answers).list(*arguments, **options)

        assert self.found(Interrupted(), after="b") == ["c", "d", "e"]

    def test_no_key_is_in_a_folder_without_a_name(self) -> None:
        library = Pages("a")
        assert self.found(library, "a//") == self.found(library, "../") == []
        assert library.asked == []

    def test_a_listing_ends_where_the_prefix_ends(self) -> None:
        assert self.found(Pages("a", "b1", "b2", "c", "b3"), "b") == ["b1", "b2"]

    def test_a_store_that_begins_anew_wherever_it_is_told_to_is_listed_once(self) -> None:
        class Anew(Pages):
            def list(self, _: object, prefix: str | None, **options: Any) -> Any:
                return super().list(_, prefix, **{**options, "offset": None})

        assert self.found(Anew("a", "b*", "c", "d")) == ["a", "b", "c", "d"]
        assert self.found(Anew("a", "b", "c", "d"), after="b") == ["c", "d"]
        with pytest.raises(BackendError, match="not sorted"):
            self.found(Anew("a", "c", "b"))

    def test_an_order_that_is_none_is_an_error(self) -> None:
        with pytest.raises(BackendError, match="not sorted"):
            self.found(Pages("b", "a"))

    def test_an_empty_entry_is_an_object_only_if_there_is_one(self) -> None:
        assert self.found(Pages("a*", "b", "c*", "b*"), absent="c") == ["a", "b"]


class TestMemoryOfParts:
    @pytest.mark.parametrize("limit", [0, 600_000, 10 * MIB])
    @pytest.mark.parametrize("expected", [None, 1, 256 * 4000])
    def test_bytes_are_the_same_in_memory_and_in_a_file(self, limit: int, expected: int | None) -> None:
        budget = BufferBudget(limit)
        part, content = PartMemory(budget, 8 * MIB, expected), bytes(range(256)) * 4000
        for start in range(0, len(content), 70_000):
            part.append(memoryview(content)[start : start + 70_000])
        assert part.content() == content
        assert part.length == len(content)
        assert budget.used == part.taken <= limit
        assert budget.spilled == (limit < 2 * len(content))
        part.free()
        part.free()
        assert budget.used == 0

    def test_who_hands_it_over_hears_when_nobody_uses_it_any_more(self) -> None:
        freed: list[int] = []
        part = PartMemory(BufferBudget(10 * MIB), MIB)
        part.append(memoryview(b"abc"))
        view = part.hand_over(lambda: freed.append(1))
        rest = view[1:]
        assert view == b"abc"
        del view
        assert freed == []
        del rest
        assert freed == [1]


@pytest.mark.parametrize(
    "verb",
    [
        lambda backend: backend.exists("a"),
        lambda backend: backend.stat("a"),
        lambda backend: backend.delete("a"),
        lambda backend: backend.open_reader("a"),
        lambda backend: backend.put_bytes("a", b"x"),
        lambda backend: backend.put_bytes("a", bytes(9 * MIB)),
        lambda backend: next(backend.list_objects()),
        lambda backend: backend.check(),
    ],
)
def test_without_obstore_the_extra_is_named(verb: Callable[[ObstoreStorageBackend], object]) -> None:
    missing = dict.fromkeys(("obstore", "obstore.exceptions", "obstore.store"))
    with (
        patch.dict(sys.modules, missing),
        pytest.raises(MissingExtraError, match=r"granite-litestar\[obstore\]"),
    ):
        verb(ObstoreStorageBackend("s3://bucket"))


@pytest.mark.parametrize("key", ["../x", "a/../../x", "a//b", "/a", "a/", "", "a\x01b", "a\ud800b"])
def test_a_key_that_leaves_the_prefix_is_refused(key: str) -> None:
    backend = ObstoreStorageBackend("s3://bucket/prefix")
    for verb in (backend.open_writer, backend.open_reader, backend.stat, backend.delete):
        with pytest.raises(InvalidKeyError):
            verb(key)


@pytest.mark.parametrize("store", ["s3://files/p", "gs://files", "az://me/files"])
def test_a_diagnosis_says_what_cannot_be_seen(store: str) -> None:
    findings = ObstoreStorageBackend(store).diagnose()
    assert "obstore-untold" in {each.code for each in findings}


def test_a_local_store_is_better_reached_without_obstore(tmp_path: Path) -> None:
    (found,) = ObstoreStorageBackend(LocalStore(tmp_path)).diagnose()
    assert "LocalStorageBackend" in found.advice
