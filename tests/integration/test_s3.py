"""What the conformance suite cannot ask of every backend: parts, lost answers, cut bodies, versions, credentials."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config

from granite_core import WriteOptions
from granite_core.backends.resumable import ResumableWriter
from granite_core.backends.s3 import S3StorageBackend, buffer_budget
from granite_core.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    InvalidKeyError,
    ObjectExistsError,
    ObjectNotFoundError,
)
from granite_core.options import NO_OPTIONS
from granite_core.testing.conformance.support import memory_peak, noise
from tests.support.proxy import Answer, Exchange, HttpProxy
from tests.support.s3 import S3Server

MIB = 1024 * 1024
PART = 5 * MIB
NOW = timedelta(seconds=-60)
LOGIN_PAGE = Answer(200, "OK", (("Content-Type", "text/html"),), b"<html><body>welcome</body></html>")


class Store:
    """A bucket of one of the servers, and ways to it."""

    def __init__(self, server: S3Server, bucket: str) -> None:
        self.server = server
        self.bucket = bucket
        self.admin = server.client()

    def client(self, endpoint: str | None = None, **config: Any) -> Any:
        settings = {"s3": {"addressing_style": "path"}, "proxies": {}, "signature_version": "s3v4", **config}
        return boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint or self.server.endpoint,
            aws_access_key_id=self.server.access_key,
            aws_secret_access_key=self.server.secret_key,
            region_name=self.server.region,
            config=Config(**settings),
        )

    def backend(self, client: Any = None, **options: Any) -> S3StorageBackend:
        options = {"part_size": PART, "atomic_create": self.server.name != "rgw", **options}
        return S3StorageBackend(self.bucket, client=client or self.client(), **options)

    def uploads(self) -> list[str]:
        return [each["Key"] for each in self.admin.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])]


@pytest.fixture
def store(s3_server: S3Server) -> Iterator[Store]:
    store = Store(s3_server, s3_server.create_bucket())
    yield store
    s3_server.drop_bucket(store.bucket)


@pytest.fixture
def atomic(ministack: S3Server) -> Iterator[Store]:
    """A store that creates atomically."""
    store = Store(ministack, ministack.create_bucket())
    yield store
    ministack.drop_bucket(store.bucket)


@pytest.fixture
def backend(store: Store) -> Iterator[S3StorageBackend]:
    backend = store.backend()
    yield backend
    backend.close()


@contextmanager
def calls_of(client: Any) -> Iterator[list[str]]:
    calls: list[str] = []

    def note(model: Any, **_: Any) -> None:
        calls.append(model.name)

    client.meta.events.register("before-call.s3", note)
    yield calls
    client.meta.events.unregister("before-call.s3", note)


def fail_calls(client: Any, operation: str, error: Exception, after: int = 0) -> None:
    calls = iter(range(10_000))

    def fail(**_: Any) -> None:
        if next(calls) >= after:
            raise error

    client.meta.events.register(f"before-call.s3.{operation}", fail)


class TestRequests:
    def test_a_small_object_is_one_request_each_way(self, backend: S3StorageBackend) -> None:
        with calls_of(backend.client) as calls:
            backend.put_bytes("a", noise(PART))
            assert backend.get("a") == noise(PART)
        assert calls == ["PutObject", "GetObject"]

    def test_a_small_object_is_sent_without_asking_whether_it_may_be(self, store: Store) -> None:
        with HttpProxy(store.server.endpoint) as proxy:
            requests = proxy.inject(lambda exchange: exchange.client.send(exchange.forward().raw), times=None)
            store.backend(store.client(proxy.endpoint)).put_bytes("a", bytes(MIB))
        assert [(each.method, b"expect:" in each.head.lower()) for each in requests] == [(b"PUT", False)]

    def test_a_large_object_is_sent_in_parts(self, backend: S3StorageBackend) -> None:
        with calls_of(backend.client) as calls:
            backend.put_bytes("a", noise(2 * PART + 1))
        assert calls == ["CreateMultipartUpload", "UploadPart", "UploadPart", "UploadPart", "CompleteMultipartUpload"]
        assert backend.get("a") == noise(2 * PART + 1)

    def test_opening_writing_nothing_and_aborting_asks_nobody(self, backend: S3StorageBackend) -> None:
        with calls_of(backend.client) as calls:
            writer = backend.open_writer("a")
            writer.write(b"abc")
            writer.abort()
        assert calls == []

    def test_a_range_of_a_large_object_moves_only_the_range(self, backend: S3StorageBackend) -> None:
        backend.put_bytes("a", noise(2 * PART))
        moved: list[int] = []
        backend.client.meta.events.register(
            "after-call.s3.GetObject", lambda parsed, **_: moved.append(parsed["ContentLength"])
        )
        with backend.open_reader("a", offset=PART, length=100) as reader:
            assert reader.read() == noise(2 * PART)[PART : PART + 100]
        assert moved == [100]


class TestWhatIsKept:
    def test_what_a_policy_asks_of_the_store_comes_with_the_object(self, store: Store) -> None:
        backend = store.backend(extra_put_kwargs={"CacheControl": "private", "Metadata": {"app": "demo"}})
        options = WriteOptions(
            metadata={"purpose": "test"},
            tags={"kind": "a b&c"},
            content_disposition="attachment",
            cache_control="no-store",
        )
        for key, size, asked in (("small", 10, NO_OPTIONS), ("asked", 10, options), ("large", PART + 1, options)):
            with backend.open_writer(key, content_type="image/png", options=asked) as writer:
                writer.write(noise(size))
                writer.commit()
        backend.copy("small", "copied", options=options)
        backend.copy_limit = PART
        backend.copy("large", "copied in parts", options=options)
        for key in ("asked", "large", "copied", "copied in parts"):
            head = store.admin.head_object(Bucket=store.bucket, Key=key)
            assert head["ContentType"] == "image/png"
            assert (head["CacheControl"], head["ContentDisposition"]) == ("no-store", "attachment")
            assert {"app": "demo", "purpose": "test"}.items() <= head["Metadata"].items()
        # Both servers drop the tags of an upload in parts, Ceph 16 those of a copy too.
        tags = store.admin.get_object_tagging(Bucket=store.bucket, Key="asked")["TagSet"]
        assert tags == [{"Key": "kind", "Value": "a b&c"}]
        plain = store.admin.head_object(Bucket=store.bucket, Key="small")
        assert (plain["CacheControl"], plain.get("ContentDisposition")) == ("private", None)

    @pytest.mark.parametrize("limit", [None, 6 * MIB])
    def test_a_copy_keeps_the_type_in_one_request_or_many(self, backend: S3StorageBackend, limit: int | None) -> None:
        with backend.open_writer("a", content_type="image/png") as writer:
            writer.write(noise(15 * MIB))
            writer.commit()
        backend.copy_limit = limit or backend.copy_limit
        with calls_of(backend.client) as calls:
            backend.copy("a", "b")
        assert ("CopyObject" in calls) is (limit is None)
        assert backend.get("b") == noise(15 * MIB)
        assert backend.client.head_object(Bucket=backend.bucket, Key="b")["ContentType"] == "image/png"

    def test_a_copy_in_parts_that_fails_leaves_nothing(self, store: Store) -> None:
        backend = store.backend()
        backend.put_bytes("a", noise(15 * MIB))
        backend.copy_limit = 6 * MIB
        fail_calls(backend.client, "UploadPartCopy", ConnectionError("broken"), after=1)
        with pytest.raises(BackendUnavailableError):
            backend.copy("a", "b")
        assert store.uploads() == []
        assert not backend.exists("b")


class TestNoUploadRemains:
    def test_after_an_abort(self, store: Store, backend: S3StorageBackend) -> None:
        writer = backend.open_writer("a")
        writer.write(noise(3 * PART))
        assert store.uploads() == ["a"]
        writer.abort()
        assert store.uploads() == []

    @pytest.mark.parametrize("part", range(4))
    def test_after_a_part_that_fails(self, store: Store, part: int) -> None:
        backend = store.backend()
        fail_calls(backend.client, "UploadPart", ConnectionError("broken"), after=part)
        with pytest.raises(BackendUnavailableError):
            backend.put_bytes("a", noise(3 * PART + 1))
        assert store.uploads() == []
        assert not backend.exists("a")
        with backend.open_writer("b") as writer:
            for _ in range(4):
                try:
                    writer.write(noise(PART))
                except BackendUnavailableError:
                    with pytest.raises(BackendError, match="closed"):
                        writer.write(b"more")
                    break
        assert store.uploads() == []

    def test_after_a_completion_that_fails(self, store: Store) -> None:
        backend = store.backend()
        fail_calls(backend.client, "CompleteMultipartUpload", ConnectionError("broken"))
        with pytest.raises(BackendUnavailableError):
            backend.put_bytes("a", noise(2 * PART))
        assert store.uploads() == []
        assert not backend.exists("a")

    def test_after_a_clash(self, atomic: Store) -> None:
        backend = atomic.backend()
        backend.put_bytes("a", b"first")
        with pytest.raises(ObjectExistsError):
            backend.put_bytes("a", noise(2 * PART))
        assert atomic.uploads() == []
        assert backend.get("a") == b"first"

    def test_but_those_of_others_when_the_old_ones_are_cleared(self, store: Store) -> None:
        ours, other = store.backend(prefix="doc"), store.backend(prefix="docs")
        writers = [ours.open_writer("a"), other.open_writer("a")]
        for writer in writers:
            writer.write(noise(PART + 1))
            writer._join()
        assert ours.clear_unfinished(timedelta(hours=1)) == 0
        assert ours.clear_unfinished(NOW) == 1
        assert store.uploads() == ["docs/a"]
        writers[1].commit()
        with pytest.raises(BackendError):
            writers[0].commit()

    def test_an_old_upload_that_still_grows_is_not_cleared(self, store: Store, backend: S3StorageBackend) -> None:
        writer = backend.open_writer("a")
        writer.write(noise(PART + 1))
        writer._join()
        before_part = timedelta(seconds=0.5)
        time.sleep(1.5)
        writer.write(noise(PART))
        writer._join()
        assert backend.clear_unfinished(before_part) == 0
        writer.commit()
        assert backend.stat("a").size == 2 * PART + 1


def test_an_upload_whose_parts_somebody_else_lists_is_left_alone(store: Store) -> None:
    with HttpProxy(store.server.endpoint) as proxy:
        backend = store.backend(store.client(proxy.endpoint))
        with backend.open_writer("a") as writer:
            writer.write(noise(PART + 1))
            proxy.inject(lambda exchange: exchange.reply(LOGIN_PAGE), matching=rb"GET \S*uploadId=")
            with pytest.raises(BackendUnavailableError):
                backend.clear_unfinished(NOW)
            writer.commit()
    assert store.backend().get("a") == noise(PART + 1)


class TestLostAnswers:
    """The server has done its work, and the connection breaks before it can say so."""

    @pytest.fixture(params=[0, 3], ids=["no retries", "retries"])
    def retries(self, request: pytest.FixtureRequest) -> int:
        return int(request.param)

    @pytest.fixture
    def proxy(self, store: Store) -> Iterator[HttpProxy]:
        with HttpProxy(store.server.endpoint) as proxy:
            yield proxy

    @pytest.fixture
    def lossy(self, store: Store, proxy: HttpProxy, retries: int) -> S3StorageBackend:
        return store.backend(store.client(proxy.endpoint, retries={"max_attempts": retries, "mode": "standard"}))

    def test_to_a_put(self, store: Store, lossy: S3StorageBackend, proxy: HttpProxy) -> None:
        proxy.lose_answers(rb"PUT ")
        lossy.put_bytes("a", b"abc")
        assert store.backend().get("a") == b"abc"

    def test_to_a_completion(self, store: Store, lossy: S3StorageBackend, proxy: HttpProxy) -> None:
        proxy.lose_answers(rb"POST \S*uploadId=")
        lossy.put_bytes("a", noise(2 * PART))
        assert store.backend().get("a") == noise(2 * PART)
        assert store.uploads() == []

    def test_to_a_part(self, store: Store, lossy: S3StorageBackend, proxy: HttpProxy, retries: int) -> None:
        proxy.lose_answers(rb"PUT \S*partNumber=1")
        if retries:
            lossy.put_bytes("a", noise(2 * PART))
            assert store.backend().get("a") == noise(2 * PART)
        else:
            with pytest.raises(BackendUnavailableError):
                lossy.put_bytes("a", noise(2 * PART))
            assert not store.backend().exists("a")
        assert store.uploads() == []

    def test_to_the_beginning_of_an_upload_leaves_what_is_cleared_later(
        self, store: Store, lossy: S3StorageBackend, proxy: HttpProxy, retries: int
    ) -> None:
        proxy.lose_answers(rb"POST \S*uploads")
        if retries:
            lossy.put_bytes("a", noise(2 * PART))
        else:
            with pytest.raises(BackendUnavailableError):
                lossy.put_bytes("a", noise(2 * PART))
        assert store.uploads() == ["a"]
        assert store.backend().clear_unfinished(NOW) == 1
        assert store.uploads() == []

    def test_to_a_put_and_to_the_question_whether_it_worked(
        self, store: Store, lossy: S3StorageBackend, proxy: HttpProxy
    ) -> None:
        proxy.lose_answers(rb"(PUT|HEAD) ", times=100)
        with pytest.raises(BackendUnavailableError):
            lossy.put_bytes("a", b"abc")

    def test_to_a_delete(self, store: Store, lossy: S3StorageBackend, proxy: HttpProxy, retries: int) -> None:
        lossy.put_bytes("a", b"abc")
        proxy.lose_answers(rb"DELETE ")
        if retries:
            lossy.delete("a")
        else:
            with pytest.raises(BackendUnavailableError):
                lossy.delete("a")
        assert not store.backend().exists("a")


class TestClashes:
    @pytest.mark.parametrize("size", [3, 2 * PART])
    def test_another_object_is_told_from_our_own_lost_answer(self, atomic: Store, size: int) -> None:
        with HttpProxy(atomic.server.endpoint) as proxy:
            backend = atomic.backend(atomic.client(proxy.endpoint, retries={"max_attempts": 3, "mode": "standard"}))
            atomic.backend().put_bytes("a", b"first")
            proxy.lose_answers(rb"PUT \S*/a |POST \S*uploadId=")
            with pytest.raises(ObjectExistsError):
                backend.put_bytes("a", noise(size))
        assert atomic.backend().get("a") == b"first"
        assert atomic.uploads() == []


class TestCutBodies:
    @pytest.fixture
    def proxy(self, store: Store) -> Iterator[HttpProxy]:
        with HttpProxy(store.server.endpoint) as proxy:
            yield proxy

    @pytest.fixture
    def fragile(self, store: Store, proxy: HttpProxy) -> S3StorageBackend:
        store.backend().put_bytes("a", noise(12 * MIB))
        return store.backend(store.client(proxy.endpoint, retries={"max_attempts": 1, "mode": "standard"}))

    def test_are_resumed_where_they_broke(self, fragile: S3StorageBackend, proxy: HttpProxy) -> None:
        proxy.cut(rb"GET ", after=3 * MIB, times=3)
        with fragile.open_reader("a") as reader:
            assert b"".join(iter(lambda: reader.read(100_000), b"")) == noise(12 * MIB)
        assert len(proxy.requests) == 4
        assert b"range: bytes=" not in proxy.requests[0].lower()
        for request in proxy.requests[1:]:
            assert b"if-match: " in request.lower()
            assert b"range: bytes=" in request.lower()
            assert b"range: bytes=0-" not in request.lower()

    def test_of_ranges_are_resumed_too(self, fragile: S3StorageBackend, proxy: HttpProxy) -> None:
        proxy.cut(rb"GET ", after=2 * MIB, times=2)
        with fragile.open_reader("a", offset=MIB, length=9 * MIB) as reader:
            assert reader.read() == noise(12 * MIB)[MIB : 10 * MIB]
        assert len(proxy.requests) == 3

    def test_end_in_an_error_when_nothing_comes_any_more(self, fragile: S3StorageBackend, proxy: HttpProxy) -> None:
        proxy.cut(rb"GET ", after=2 * MIB)
        proxy.cut(rb"GET ", after=1000, times=100)
        with fragile.open_reader("a") as reader, pytest.raises(BackendUnavailableError):
            while reader.read(MIB):
                pass
        assert len(proxy.requests) <= 8

    def test_whose_head_was_cut_in_its_length_are_no_shorter_files(
        self, fragile: S3StorageBackend, proxy: HttpProxy
    ) -> None:
        def cut_the_length(exchange: Exchange) -> None:
            exchange.client.send(replace(exchange.forward(), body=b"", length=1258).head)
            exchange.hang_up()

        proxy.inject(cut_the_length, matching=b"GET ")
        with fragile.open_reader("a") as reader, pytest.raises(BackendUnavailableError):
            reader.read()

    def test_of_an_object_that_was_replaced_are_not_resumed(
        self, store: Store, fragile: S3StorageBackend, proxy: HttpProxy
    ) -> None:
        proxy.cut(rb"GET ", after=2 * MIB)
        with fragile.open_reader("a") as reader:
            reader.read(10)
            store.admin.put_object(Bucket=store.bucket, Key="a", Body=noise(12 * MIB, 2))
            with pytest.raises(BackendError, match="changed"):
                while reader.read(MIB):
                    pass

    def test_of_an_object_that_has_gone_say_so(self, store: Store, fragile: S3StorageBackend, proxy: HttpProxy) -> None:
        proxy.cut(rb"GET ", after=2 * MIB)
        with fragile.open_reader("a") as reader:
            reader.read(10)
            store.admin.delete_object(Bucket=store.bucket, Key="a")
            with pytest.raises(ObjectNotFoundError):
                while reader.read(MIB):
                    pass


ALL = pytest.mark.parametrize(
    "call",
    [
        lambda backend: backend.stat("a"),
        lambda backend: backend.exists("a"),
        lambda backend: backend.get("a"),
        lambda backend: backend.put_bytes("a", b"x"),
        lambda backend: backend.put_bytes("a", bytes(2 * PART)),
        lambda backend: backend.delete("a"),
        lambda backend: list(backend.list_objects()),
        lambda backend: backend.copy("a", "b"),
        lambda backend: backend.clear_unfinished(NOW),
    ],
    ids=["stat", "exists", "get", "put", "put in parts", "delete", "list", "copy", "clear"],
)
Call = Callable[[S3StorageBackend], object]


class TestAbsentForbiddenUnreachable:
    @pytest.fixture(scope="class")
    def rgw_bucket(self, rgw: S3Server) -> Iterator[str]:
        bucket = rgw.create_bucket()
        yield bucket
        rgw.drop_bucket(bucket)

    @pytest.mark.parametrize("wrong", [{"aws_secret_access_key": "wrong"}, {"aws_access_key_id": "nobody"}])
    @ALL
    def test_wrong_credentials_are_told_from_absence(
        self, rgw: S3Server, rgw_bucket: str, wrong: dict[str, str], call: Call
    ) -> None:
        keys = {"aws_access_key_id": rgw.access_key, "aws_secret_access_key": rgw.secret_key, **wrong}
        client = boto3.session.Session().client(
            "s3", endpoint_url=rgw.endpoint, region_name=rgw.region, config=Config(proxies={}), **keys
        )
        with pytest.raises(AccessDeniedError) as caught:
            call(S3StorageBackend(rgw_bucket, client=client, atomic_create=False, part_size=PART))
        for secret in ("wrong", "nobody", rgw.secret_key):
            assert secret not in str(caught.value)

    @ALL
    def test_a_missing_bucket_is_told_from_absence(self, s3_server: S3Server, call: Call) -> None:
        backend = S3StorageBackend(f"absent-{uuid4().hex}", client=s3_server.client(), atomic_create=False)
        with pytest.raises(BackendError) as caught:
            call(backend)
        assert not isinstance(caught.value, (AccessDeniedError, BackendUnavailableError))

    @ALL
    def test_an_unreachable_store_is_told_from_absence_and_soon(
        self, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        backend = S3StorageBackend("bucket", endpoint_url="http://127.0.0.1:1", region="us-east-1", part_size=PART)
        began = time.monotonic()
        with pytest.raises(BackendUnavailableError) as caught:
            call(backend)
        assert time.monotonic() - began < 30
        assert caught.value.retryable

    def test_missing_credentials_are_told_from_absence(
        self, ministack: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
        with pytest.raises(AccessDeniedError):
            S3StorageBackend("bucket", endpoint_url=ministack.endpoint, region="us-east-1").stat("a")


class TestVersionedBuckets:
    @pytest.fixture
    def versioned(self, s3_server: S3Server) -> Iterator[Store]:
        store = Store(s3_server, s3_server.create_bucket(versioned=True))
        yield store
        s3_server.drop_bucket(store.bucket)

    def versions(self, store: Store) -> list[str]:
        page = store.admin.list_object_versions(Bucket=store.bucket)
        return [each["Key"] for each in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]]

    def test_keep_nothing_of_what_was_deleted(self, versioned: Store) -> None:
        backend = versioned.backend()
        for key in ("a", "a/b", "ab"):
            backend.put_bytes(key, b"x")
        versioned.admin.put_object(Bucket=versioned.bucket, Key="a", Body=b"again")
        backend.delete("a")
        backend.delete("a")
        backend.delete("absent")
        assert sorted(self.versions(versioned)) == ["a/b", "ab"]

    def test_keep_nothing_of_many_that_were_deleted_at_once(self, versioned: Store) -> None:
        backend = versioned.backend(prefix="p")
        for key in ("a", "a/b", "ab", "c"):
            backend.put_bytes(key, b"x")
        for number in range(3):
            versioned.admin.put_object(Bucket=versioned.bucket, Key="p/a", Body=str(number).encode())
        with calls_of(backend.client) as calls:
            assert backend.delete_many(["a", "c", "absent"]) == {}
        assert calls == ["DeleteObjects", *["ListObjectVersions"] * 3, "DeleteObjects"]
        assert sorted(self.versions(versioned)) == ["p/a/b", "p/ab"]
        backend.delete_many(["a", "a/b"])
        assert self.versions(versioned) == ["p/ab"]

    def test_may_be_left_to_a_lifecycle_rule_if_there_is_one(self, versioned: Store) -> None:
        backend = versioned.backend(delete_versions=False)
        backend.put_bytes("a", b"x")
        backend.delete("a")
        assert not backend.exists("a")
        assert self.versions(versioned) == ["a", "a"]
        backend.put_bytes("b", b"x")
        assert backend.delete_many(["a", "b"]) == {}
        assert not backend.exists("b")
        assert self.versions(versioned).count("b") == 2
        with pytest.raises(ConfigurationError, match="lifecycle"):
            backend.check()
        rule = {
            "ID": "forget",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
        }
        versioned.admin.put_bucket_lifecycle_configuration(
            Bucket=versioned.bucket, LifecycleConfiguration={"Rules": [rule]}
        )
        backend.check()


class TestDeletingMany:
    """What a request for many objects says of each, and what is done where it says nothing."""

    KEYS = ("a", "b", "c", "d")

    @pytest.fixture
    def proxied(self, store: Store) -> Iterator[tuple[S3StorageBackend, HttpProxy]]:
        for key in self.KEYS:
            store.backend().put_bytes(key, b"x")
        with HttpProxy(store.server.endpoint) as proxy:
            yield store.backend(store.client(proxy.endpoint, retries={"total_max_attempts": 1})), proxy

    def left(self, store: Store) -> list[str]:
        return list(store.backend().iter_locations())

    def test_is_a_request_for_each_thousand(self, atomic: Store) -> None:
        backend = atomic.backend(prefix="p")
        backend.put_bytes("a1", b"x")
        backend.put_bytes("b", b"x")
        with calls_of(backend.client) as calls:
            assert backend.delete_many([f"a{number}" for number in range(1001)]) == {}
            assert calls == ["DeleteObjects"] * 2
            assert backend.delete_many(["b"]) == {}
        assert calls == ["DeleteObjects"] * 2 + ["DeleteObject"]
        assert self.left(atomic) == []

    def test_tells_those_that_are_refused_and_tries_the_others_again(
        self, store: Store, proxied: tuple[S3StorageBackend, HttpProxy]
    ) -> None:
        backend, proxy = proxied
        inject_deletions(proxy, deleted=["absent"], errors={"a": "AccessDenied", "b": "InternalError"})
        failed = backend.delete_many([*self.KEYS, "absent"])  # of c and d nothing is said
        assert {key: type(error) for key, error in failed.items()} == {"a": AccessDeniedError}
        assert failed["a"].location == "a"  # type: ignore[attr-defined]  # a StorageError
        assert self.left(store) == ["a"]

    def test_gives_up_what_fails_every_time(self, store: Store, proxied: tuple[S3StorageBackend, HttpProxy]) -> None:
        backend, proxy = proxied
        inject_deletions(proxy, deleted=["a"], errors={"b": "SlowDown", "c": "NoSuchKey"}, times=3)
        failed = backend.delete_many(self.KEYS)
        assert {key: type(error) for key, error in failed.items()} == dict.fromkeys("bd", BackendUnavailableError)

    def test_takes_each_by_itself_where_the_store_knows_no_such_request(
        self, store: Store, proxied: tuple[S3StorageBackend, HttpProxy]
    ) -> None:
        backend, proxy = proxied
        body = b"<Error><Code>NotImplemented</Code><Message>A header you provided</Message></Error>"
        answer = Answer(501, "Not Implemented", (("Content-Type", "application/xml"),), body)
        proxy.inject(lambda exchange: exchange.reply(answer), matching=rb"POST ", times=100)
        assert backend.delete_many([*self.KEYS, "absent"]) == {}
        assert self.left(store) == []

    def test_does_not_believe_what_something_else_answers(
        self, store: Store, proxied: tuple[S3StorageBackend, HttpProxy]
    ) -> None:
        backend, proxy = proxied
        proxy.inject(lambda exchange: exchange.reply(LOGIN_PAGE), matching=rb"(POST|DELETE) ", times=100)
        failed = backend.delete_many(self.KEYS)
        assert {key: type(error) for key, error in failed.items()} == dict.fromkeys(self.KEYS, BackendUnavailableError)
        assert self.left(store) == list(self.KEYS)

    def test_soon_gives_up_a_store_that_is_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        backend = S3StorageBackend("bucket", endpoint_url="http://127.0.0.1:1", region="us-east-1", max_attempts=1)
        with calls_of(backend.client) as calls:
            failed = backend.delete_many([f"a{number}" for number in range(500)])
        assert len(failed) == 500
        assert {type(error) for error in failed.values()} == {BackendUnavailableError}
        assert calls == ["DeleteObjects"] + ["DeleteObject"] * 3

    def test_never_takes_a_key_for_another(self, store: Store) -> None:
        backend = store.backend()
        going = [" a", "a ", "a\u2028b", "a\u00a0", "x&amp;y", "x<y>z", "'\"", "ä", "a\u0308"]
        kept = ["a", "ab", "x&y", "\u00e4b"]
        for key in (*going, *kept):
            backend.put_bytes(key, b"x")
        assert backend.delete_many(going) == {}
        assert self.left(store) == sorted(kept)

    def test_refuses_what_is_no_key_and_no_more(self, store: Store) -> None:
        backend = store.backend(prefix="p")
        backend.put_bytes("a", b"x")
        store.backend().put_bytes("secret", b"x")
        failed = backend.delete_many(["a", "../secret", "b"])
        assert {key: type(error) for key, error in failed.items()} == {"../secret": InvalidKeyError}
        assert self.left(store) == ["secret"]


def inject_deletions(proxy: HttpProxy, *, deleted: list[str], errors: dict[str, str], times: int = 1) -> None:
    """Have the next requests for many deletions answered so."""
    said = [f"<Deleted><Key>{key}</Key></Deleted>" for key in deleted]
    said += [f"<Error><Key>{key}</Key><Code>{code}</Code><Message>m</Message></Error>" for key, code in errors.items()]
    head = '<?xml version="1.0"?><DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    body = f"{head}{''.join(said)}</DeleteResult>".encode()
    answer = Answer(200, "OK", (("Content-Type", "application/xml"),), body)
    proxy.inject(lambda exchange: exchange.reply(answer), matching=rb"POST ", times=times)


class TestCheck:
    def test_passes_where_all_is_well(self, store: Store) -> None:
        backend = store.backend(prefix="p")
        backend.check()
        assert store.admin.list_objects_v2(Bucket=store.bucket)["KeyCount"] == 0

    def test_finds_a_store_that_ignores_conditions(self, rgw: S3Server) -> None:
        bucket = rgw.create_bucket()
        try:
            with pytest.raises(ConfigurationError, match="atomic_create=False"):
                S3StorageBackend(bucket, client=rgw.client()).check()
        finally:
            rgw.drop_bucket(bucket)

    def test_finds_a_missing_bucket(self, s3_server: S3Server) -> None:
        with pytest.raises(ConfigurationError):
            S3StorageBackend(f"absent-{uuid4().hex}", client=s3_server.client(), atomic_create=False).check()


class TestMemory:
    def test_a_stream_of_200_mib_takes_three_parts_at_most(self, atomic: Store) -> None:
        backend = atomic.backend()
        piece = noise(MIB)
        with memory_peak() as peak, backend.open_writer("a") as writer:
            for _ in range(200):
                writer.write(piece)
            writer.commit()
            assert peak() < 3 * PART
        assert backend.stat("a").size == 200 * MIB
        assert buffer_budget.used == 0

    def test_past_the_budget_parts_wait_in_files(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(buffer_budget, "limit", MIB)
        spilled = buffer_budget.spilled
        backend = store.backend()
        content = noise(2 * PART + 77)
        with memory_peak() as peak, backend.open_writer("a") as writer:
            for start in range(0, len(content), 100_000):
                writer.write(memoryview(content)[start : start + 100_000])
            writer.commit()
            assert peak() < 3 * MIB
        assert backend.get("a") == content
        backend.put_bytes("b", noise(MIB))
        assert backend.get("b") == noise(MIB)
        assert buffer_budget.spilled - spilled == 3
        assert buffer_budget.used == 0

    @pytest.mark.parametrize("resumes", [False, True])
    def test_a_part_that_no_thread_could_be_had_for_leaves_nothing(self, atomic: Store, resumes: bool) -> None:
        backend = atomic.backend()
        backend._pool().shutdown()  # as one whose threads the system refuses
        writer = backend.resume_writer("a") if resumes else backend.open_writer("a")
        with pytest.raises(RuntimeError):
            for _ in range(3):
                writer.write(noise(PART))
        if isinstance(writer, ResumableWriter):
            writer.withdraw()
        assert buffer_budget.used == 0
        assert "Uploads" not in atomic.admin.list_multipart_uploads(Bucket=atomic.bucket)
        assert list(backend.list_objects()) == []


def test_a_forked_child_has_a_client_of_its_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.server.secret_key)
    backend = S3StorageBackend(
        store.bucket,
        endpoint_url=store.server.endpoint,
        region=store.server.region,
        part_size=PART,
        atomic_create=store.server.name != "rgw",
    )
    backend.put_bytes("a", noise(2 * PART))

    def work() -> None:
        backend.put_bytes("b", backend.get("a"))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert backend.get("b") == noise(2 * PART)
    backend.close()


def test_two_prefixes_that_begin_alike_are_two_stores(store: Store) -> None:
    one, other = store.backend(prefix="doc"), store.backend(prefix="/docs/")
    one.put_bytes("a", b"one")
    other.put_bytes("a", b"other")
    assert [list(each.iter_locations()) for each in (one, other)] == [["a"], ["a"]]
    one.delete("a")
    assert other.get("a") == b"other"
    assert one.identity[:-1] == other.identity[:-1]
    assert one.identity != other.identity


def test_folder_markers_of_a_console_are_no_objects(store: Store, backend: S3StorageBackend) -> None:
    store.admin.put_object(Bucket=store.bucket, Key="folder/", Body=b"")
    backend.put_bytes("folder/a", b"x")
    assert list(backend.iter_locations()) == ["folder/a"]
