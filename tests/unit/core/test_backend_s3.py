"""The S3 backend's decisions, without a store."""

from __future__ import annotations

import io
import random
import sys
import zlib
from base64 import b64decode
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path
from unittest.mock import patch

import pytest
from botocore import exceptions
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from granite_core.backends import backend_from_url
from granite_core.backends._parts import MAX_PART_BYTES, MAX_PARTS, copy_ranges, part_length
from granite_core.backends.s3 import BufferBudget, S3StorageBackend
from granite_core.backends.s3.answers import ForeignAnswerError, ask
from granite_core.backends.s3.buffers import PartBuffer
from granite_core.backends.s3.client import failure
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
TB = 10**12


class TestParts:
    @pytest.mark.parametrize("base", [5 * MIB, 8 * MIB, 64 * MIB])
    @pytest.mark.parametrize("total", [6 * 10**9, 100 * 10**9, TB, 5 * TB])
    def test_a_stream_of_unknown_length_fits(self, base: int, total: int) -> None:
        sent = 0
        for number in count(1):
            length = part_length(number, base=base)
            assert base <= length <= MAX_PART_BYTES
            sent += length
            if sent >= total:
                assert number <= MAX_PARTS
                return

    def test_a_short_stream_takes_short_parts(self) -> None:
        assert {part_length(number, base=8 * MIB) for number in range(1, 1001)} == {8 * MIB}

    @given(st.integers(0, 50 * TB), st.integers(5 * MIB, 100 * MIB))
    def test_an_object_of_known_length_fits(self, size: int, base: int) -> None:
        length = part_length(1, base=base, size=size)
        assert base <= length <= MAX_PART_BYTES
        assert length * MAX_PARTS >= size
        assert part_length(MAX_PARTS, base=base, size=size) == length

    @given(st.integers(1, 5 * TB))
    def test_a_copy_covers_every_byte_once(self, size: int) -> None:
        ranges = copy_ranges(size, base=256 * MIB)
        assert len(ranges) <= MAX_PARTS
        assert ranges[0][0] == 0
        assert ranges[-1][1] == size - 1
        assert all(first == last + 1 for (_, last), (first, _) in pairwise(ranges))


class TestBuffers:
    @pytest.mark.parametrize("limit", [0, 600_000, 10 * MIB])
    def test_bytes_and_checksum_are_the_same_in_memory_and_in_a_file(self, limit: int) -> None:
        budget = BufferBudget(limit)
        buffer, content = PartBuffer(budget), bytes(range(256)) * 4000
        for start in range(0, len(content), 70_000):
            buffer.append(memoryview(content)[start : start + 70_000])
        body = buffer.body
        assert body.read() == content
        assert int.from_bytes(b64decode(buffer.crc32), "big") == zlib.crc32(content)
        assert buffer.length == len(content)
        assert budget.used <= limit
        assert budget.spilled == (limit < 2 * len(content))
        buffer.free()
        buffer.free()
        assert budget.used == 0

    def test_a_large_part_is_sent_as_a_file_that_gives_more_than_it_is_asked_for(self) -> None:
        buffer, content = PartBuffer(BufferBudget(8 * MIB)), bytes(range(256)) * 8000
        buffer.append(memoryview(content))
        payload = buffer.payload
        assert not isinstance(payload, bytes)
        assert payload.read(0) == b""
        pieces = list(iter(lambda: payload.read(16 * 1024), b""))
        assert (b"".join(pieces), len(pieces)) == (content, 8)
        assert (payload.seek(-10, io.SEEK_END), payload.tell()) == (len(content) - 10,) * 2
        assert payload.read() == content[-10:]
        assert buffer.body.read(10) == content[:10]
        buffer.free()

    def test_a_small_part_is_sent_as_bytes(self) -> None:
        buffer = PartBuffer(BufferBudget(MIB))
        buffer.append(memoryview(b"small"))
        assert buffer.payload == b"small"
        buffer.free()

    def test_what_is_sent_is_not_copied_and_stays_good_when_the_buffer_grows_or_is_freed(self) -> None:
        buffer, content = PartBuffer(BufferBudget(32 * MIB)), random.Random(7).randbytes(2 * MIB)
        buffer.append(memoryview(content))
        payload = buffer.payload
        assert not isinstance(payload, bytes)
        pieces = list(iter(lambda: payload.read(16 * 1024), b""))
        assert {type(piece) for piece in pieces} == {memoryview}
        assert len({id(piece.obj) for piece in pieces}) == 1  # type: ignore[attr-defined] # they are views
        buffer.append(memoryview(bytes(8 * MIB)))
        assert buffer.body.read() == content + bytes(8 * MIB)
        buffer.free()
        assert b"".join(pieces) == content
        payload.seek(0)  # as botocore does, to send it again
        assert payload.read() == content

    def test_no_more_memory_is_taken_than_there_can_be_bytes(self) -> None:
        budget = BufferBudget(32 * MIB)
        for expected in (None, 100, 5 * MIB - 1):
            buffer, most = PartBuffer(budget, expected, at_most=5 * MIB), 0
            for _ in range(5 * MIB // 40_960):
                buffer.append(memoryview(bytes(40_960)))
                most = max(most, budget.used)
            assert most == buffer.length == 5 * MIB
            buffer.free()
        assert (budget.used, budget.spilled) == (0, 0)

    def test_one_buffer_leaves_half_of_the_budget_to_others(self) -> None:
        budget = BufferBudget(4 * MIB)
        buffer = PartBuffer(budget)
        buffer.append(memoryview(bytes(2 * MIB)))
        assert budget.spilled == 0
        buffer.append(memoryview(b"x"))
        assert (budget.spilled, budget.used) == (1, 0)
        buffer.free()


class TestSignatures:
    """Whether a SHA-256 of the contents is taken once more for the signature."""

    def signs_contents(self, address: str) -> bool | None:
        client = S3StorageBackend("bucket", endpoint_url=address, region="us-east-1").client
        found = (client.meta.config.s3 or {}).get("payload_signing_enabled")
        client.close()
        return found  # type: ignore[no-any-return]

    def test_leave_contents_to_tls_and_the_checksum(self) -> None:
        assert self.signs_contents("https://store.example") is False

    def test_hold_contents_where_nothing_else_protects_them(self) -> None:
        assert self.signs_contents("http://store.example") is None

    def test_are_as_the_users_configuration_says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "config").write_text("[default]\ns3 =\n    payload_signing_enabled = true\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        assert self.signs_contents("https://store.example")


def answer(code: str, status: int) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": "secret key"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject"
    )


def test_what_is_refused_as_an_answer_gives_its_connection_back() -> None:
    body = io.BytesIO(b"a login page")

    class Captive:
        def get_object(self, **_: object) -> dict[str, object]:
            return {"Body": body, "ContentLength": 12}

    with pytest.raises(ForeignAnswerError, match="says no ETag"):
        ask(Captive(), "get_object", Bucket="bucket", Key="key")
    assert body.closed


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (answer("NoSuchKey", 404), ObjectNotFoundError),
            (answer("404", 404), BackendUnavailableError),  # S3 names the error: this was something in between
            (answer("", 404), BackendUnavailableError),
            (answer("302", 302), BackendUnavailableError),
            (answer("429", 429), BackendUnavailableError),
            (answer("413", 413), BackendError),
            (answer("BadDigest", 400), BackendUnavailableError),
            (ForeignAnswerError("secret"), BackendUnavailableError),
            (answer("NoSuchBucket", 404), BackendError),
            (answer("NoSuchUpload", 404), BackendError),
            (answer("AccessDenied", 403), AccessDeniedError),
            (answer("403", 403), AccessDeniedError),
            (answer("Unauthorized", 401), AccessDeniedError),
            (answer("ExpiredToken", 400), AccessDeniedError),
            (answer("SlowDown", 503), BackendUnavailableError),
            (answer("QuotaExceeded", 403), StorageFullError),
            (answer("XMinioStorageFull", 507), StorageFullError),
            (answer("InternalError", 500), BackendUnavailableError),
            (answer("TooManyRequests", 429), BackendUnavailableError),
            (answer("RequestTimeout", 400), BackendUnavailableError),
            (answer("NotImplemented", 501), BackendError),
            (answer("EntityTooLarge", 400), BackendError),
            (exceptions.NoCredentialsError(), AccessDeniedError),
            (exceptions.EndpointConnectionError(endpoint_url="http://user:secret@host"), BackendUnavailableError),
            (exceptions.ConnectTimeoutError(endpoint_url="http://secret"), BackendUnavailableError),
            (exceptions.ReadTimeoutError(endpoint_url="http://secret"), BackendUnavailableError),
            (exceptions.ConnectionClosedError(endpoint_url="http://secret"), BackendUnavailableError),
            (exceptions.ResponseStreamingError(error="secret"), BackendUnavailableError),
            (exceptions.ParamValidationError(report="secret"), BackendError),
            (ConnectionResetError("secret"), BackendUnavailableError),
        ],
    )
    def test_each_means_what_the_caller_can_do_next(self, error: Exception, expected: type[StorageError]) -> None:
        found = failure(error, "get", "a/b")
        assert type(found) is expected
        assert (found.operation, found.location) == ("get", "a/b")
        assert "secret" not in f"{found} {found!r}"

    def test_the_answer_to_a_head_has_nothing_but_a_status(self) -> None:
        assert type(failure(answer("404", 404), "stat", "a/b")) is ObjectNotFoundError


@pytest.mark.parametrize(
    "verb",
    [
        lambda backend: backend.exists("a"),
        lambda backend: backend.stat("a"),
        lambda backend: backend.delete("a"),
        lambda backend: backend.open_reader("a"),
        lambda backend: backend.put_bytes("a", b"x"),
        lambda backend: next(backend.list_objects()),
        lambda backend: backend.check(),
    ],
)
def test_without_boto3_the_extra_is_named(verb: Callable[[S3StorageBackend], object]) -> None:
    missing = dict.fromkeys(("boto3", "botocore", "botocore.config", "botocore.exceptions", "urllib3.exceptions"))
    with (
        patch.dict(sys.modules, missing),
        pytest.raises(MissingExtraError, match=r"granite-litestar\[s3\]"),
    ):
        verb(S3StorageBackend("bucket"))


@pytest.mark.parametrize("options", [{"part_size": 1}, {"prefix": "a/../b"}, {"client": object(), "region": "x"}])
def test_what_cannot_work_is_refused_at_once(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        S3StorageBackend("bucket", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["../x", "a/../../x", "a//b", "/a", "a/", ""])
def test_a_key_that_leaves_the_prefix_is_refused(key: str) -> None:
    backend = S3StorageBackend("bucket", "prefix", client=object())
    for verb in (backend.open_writer, backend.open_reader, backend.stat, backend.delete):
        with pytest.raises(InvalidKeyError):
            verb(key)


class TestPatience:
    def test_is_bounded_where_nothing_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
        config = S3StorageBackend("bucket", region="us-east-1").client.meta.config
        assert (config.connect_timeout, config.read_timeout) == (5, 60)
        assert config.retries["mode"] == "standard"
        assert config.retries.get("total_max_attempts", 3) == 3

    def test_is_what_the_url_says(self) -> None:
        url = "s3://bucket?region=us-east-1&connect_timeout=0.5&read_timeout=7&max_attempts=1"
        config = backend_from_url(url).client.meta.config  # type: ignore[attr-defined]
        assert (config.connect_timeout, config.read_timeout) == (0.5, 7)
        assert config.retries["total_max_attempts"] == 1

    @pytest.mark.parametrize("name", ["connect_timeout", "read_timeout", "max_attempts"])
    @pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "long"])
    def test_has_an_end_and_a_beginning(self, name: str, value: str) -> None:
        with pytest.raises(ConfigurationError):
            backend_from_url(f"s3://bucket?{name}={value}")

    @pytest.mark.parametrize("name", ["connect_timeout", "read_timeout", "max_attempts"])
    def test_of_a_client_that_is_given_is_its_own(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match="client's own"):
            S3StorageBackend("bucket", client=object(), **{name: 1})
