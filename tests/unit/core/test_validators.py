"""Validators look at what was stored before anyone has its ref; what they refuse is gone."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import zlib
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest
from PIL import Image

from granite_core import (
    AsyncStorageManager,
    BackendUnavailableError,
    Candidate,
    ConfigurationError,
    ContentRejectedError,
    LocalStorageBackend,
    MemoryStorageBackend,
    MissingExtraError,
    StorageManager,
    StoragePolicy,
    ValidationFailedError,
    Validator,
)
from granite_core.testing import FaultyBackend
from granite_core.validators import ImageValidator

seen: ContextVar[str] = ContextVar("seen", default="nothing")


def make_manager(*validators: Validator, **options: Any) -> tuple[StorageManager, FaultyBackend]:
    backend = FaultyBackend(MemoryStorageBackend())
    policies = [
        StoragePolicy("files", "main", validators=validators, **options),
        StoragePolicy("any", "main"),
    ]
    return StorageManager({"main": backend}, policies), backend


def stored(backend: FaultyBackend) -> list[str]:
    return [*backend.inner.iter_locations()]


def refuse(candidate: Candidate) -> None:
    raise ValidationFailedError("no good", code="not_good", limit=1, value=2)


async def refuse_later(candidate: Candidate) -> None:
    await asyncio.sleep(0)
    refuse(candidate)


def refuse_in_disguise(candidate: Candidate) -> Awaitable[None]:
    return refuse_later(candidate)


def refuse_by_value(candidate: Candidate) -> None:
    raise ValueError("no good")


class RefusingObject:
    async def __call__(self, candidate: Candidate) -> None:
        refuse(candidate)


class TestSync:
    def test_a_validator_sees_the_stored_bytes_and_what_is_known_of_them(self) -> None:
        looked: list[Any] = []

        def look(candidate: Candidate) -> None:
            assert stored(backend) == [candidate.ref.location]
            with candidate.open() as file:
                file.seek(3)
                looked.extend((candidate.ref.original_filename, candidate.ref.size, candidate.field, file.read()))

        manager, backend = make_manager(look)
        ref = manager.put_bytes("files", content=b"hello", original_filename="a.txt")
        assert looked == ["a.txt", 5, "files", b"lo"]
        assert stored(backend) == [ref.location]
        assert backend.open_readers == 0

    @pytest.mark.parametrize("validator", [refuse, refuse_later, RefusingObject(), refuse_in_disguise])
    def test_what_is_refused_is_gone_and_the_error_says_what_is_wrong(self, validator: Validator) -> None:
        manager, backend = make_manager(validator)
        with pytest.raises(ValidationFailedError) as caught, manager.stage("files", field="scan") as write:
            write.write(b"hello")
            write.commit()
        error = caught.value
        assert (error.field, error.code, error.limit, error.value, error.reason) == (
            "scan",
            "not_good",
            1,
            2,
            "no good",
        )
        assert str(error) == error.public_message == "scan: no good"
        assert isinstance(error, ContentRejectedError)
        assert stored(backend) == []

    def test_a_value_error_is_a_refusal(self) -> None:
        manager, backend = make_manager(refuse_by_value)
        with pytest.raises(ValidationFailedError, match=r"^files: no good$") as caught:
            manager.put_stream("files", stream=io.BytesIO(b"x"))
        assert caught.value.code == "validation_failed"
        assert stored(backend) == []

    def test_they_are_called_in_order_until_one_refuses(self) -> None:
        called: list[str] = []

        async def second(candidate: Candidate) -> None:
            called.append("second")

        manager, _ = make_manager(lambda _: called.append("first"), second, refuse, lambda _: called.append("fourth"))
        with pytest.raises(ValidationFailedError):
            manager.put_bytes("files", content=b"x")
        assert called == ["first", "second"]

    def test_a_validator_that_breaks_leaves_nothing(self) -> None:
        def broken(candidate: Candidate) -> None:
            raise ZeroDivisionError

        manager, backend = make_manager(broken)
        with pytest.raises(ZeroDivisionError):
            manager.put_bytes("files", content=b"x")
        assert stored(backend) == []

    def test_content_that_cannot_be_read_is_no_refusal(self) -> None:
        def read(candidate: Candidate) -> None:
            candidate.open()

        manager, backend = make_manager(read)
        backend.fail("open_reader", BackendUnavailableError("away"))
        with pytest.raises(BackendUnavailableError) as caught:
            manager.put_bytes("files", content=b"x")
        assert caught.value.field == "files"
        assert stored(backend) == []

    def test_what_cannot_be_deleted_at_once_is_left_to_the_collector(self) -> None:
        manager, backend = make_manager(refuse)
        backend.fail("delete", BackendUnavailableError("away"))
        with pytest.raises(ValidationFailedError):
            manager.put_bytes("files", content=b"x")
        assert [ref.location for ref in manager.take_notes()] == stored(backend)

    @pytest.mark.parametrize("local", [False, True])
    def test_a_copy_is_looked_at_by_the_target_s_validators(self, local: bool, tmp_path: Any) -> None:
        manager, _ = make_manager(refuse)
        if local:
            store = LocalStorageBackend(tmp_path)
            manager = StorageManager({"main": store}, [*manager.policies.values()])
        ref = manager.put_bytes("any", content=b"x")
        with pytest.raises(ValidationFailedError):
            manager.copy(ref, "files")
        assert [*manager.get_backend("main").iter_locations()] == [ref.location]

    async def test_an_asynchronous_one_cannot_run_where_a_loop_runs_and_nothing_is_stored(self) -> None:
        manager, backend = make_manager(refuse_later)
        with pytest.raises(ConfigurationError, match=r"refuse_later of policy 'files' is asynchronous.*AsyncStorage"):
            manager.put_bytes("files", content=b"x")
        assert "open_writer" not in backend.calls

    async def test_one_that_turns_out_to_be_asynchronous_there_leaves_nothing(self) -> None:
        manager, backend = make_manager(refuse_in_disguise)
        with pytest.raises(ConfigurationError, match="is asynchronous"):
            manager.put_bytes("files", content=b"x")
        assert stored(backend) == []

    def test_what_is_no_function_is_refused_at_once(self) -> None:
        with pytest.raises(ConfigurationError, match="validators of policy 'files'"):
            make_manager("image")  # type: ignore[arg-type]


PUTS: list[Callable[[AsyncStorageManager], Awaitable[Any]]] = [
    lambda files: files.put_bytes("files", content=b"x"),
    lambda files: files.put_stream("files", stream=io.BytesIO(b"x")),
    lambda files: files.stage("files").commit(),
]


class TestAsync:
    @pytest.mark.parametrize("put", PUTS, ids=["bytes", "stream", "stage"])
    @pytest.mark.parametrize("validator", [refuse, refuse_later, RefusingObject(), refuse_in_disguise])
    async def test_every_verb_has_them_look(self, put: Any, validator: Validator) -> None:
        manager, backend = make_manager(validator)
        with pytest.raises(ValidationFailedError, match=r"^files: no good$"):
            await put(AsyncStorageManager(manager))
        assert stored(backend) == []

    async def test_synchronous_ones_run_in_a_thread_and_asynchronous_ones_on_the_loop(self) -> None:
        where: list[Any] = []

        def in_thread(candidate: Candidate) -> None:
            where.append((threading.current_thread() is threading.main_thread(), seen.get()))

        async def on_loop(candidate: Candidate) -> None:
            async with await candidate.open_async() as reader:
                where.append((asyncio.get_running_loop() is loop, seen.get(), reader.size, await reader.read()))

        loop = asyncio.get_running_loop()
        seen.set("this request")
        manager, backend = make_manager(in_thread, on_loop)
        await AsyncStorageManager(manager).put_bytes("files", content=b"hello")
        assert where == [(False, "this request"), (True, "this request", 5, b"hello")]
        assert backend.open_readers == 0

    async def test_a_copy_is_looked_at(self) -> None:
        manager, backend = make_manager(refuse_later)
        ref = manager.put_bytes("any", content=b"x")
        with pytest.raises(ValidationFailedError):
            await AsyncStorageManager(manager).copy(ref, "files")
        assert stored(backend) == [ref.location]

    @pytest.mark.parametrize("colour", ["sync", "async"])
    async def test_a_caller_that_is_cancelled_meanwhile_leaves_nothing(self, colour: str) -> None:
        looking, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def slow(candidate: Candidate) -> None:
            loop.call_soon_threadsafe(looking.set)
            go_on.wait(10)

        async def slow_on_loop(candidate: Candidate) -> None:
            looking.set()
            await asyncio.sleep(60)

        manager, backend = make_manager(slow if colour == "sync" else slow_on_loop)
        task = asyncio.create_task(AsyncStorageManager(manager).put_bytes("files", content=b"x"))
        await looking.wait()
        assert len(stored(backend)) == 1
        task.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stored(backend) == []


def picture(width: int, height: int, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, kind, **options)
    return buffer.getvalue()


def turned(width: int, height: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(width, height, "JPEG", exif=exif)


class TestImages:
    @pytest.mark.parametrize(
        ("options", "content"),
        [
            ({}, picture(1, 1)),
            ({"min_width": 10, "max_width": 10, "min_height": 5, "max_height": 5}, picture(10, 5)),
            ({"min_aspect_ratio": 2, "max_aspect_ratio": 2}, picture(10, 5)),
            ({"max_aspect_ratio": 1}, turned(10, 5)),
            ({"formats": ["jpeg", "WebP"]}, picture(10, 5, "WEBP")),
            ({"decode": True, "max_pixels": 50}, picture(10, 5)),
        ],
    )
    def test_a_picture_that_fits_is_accepted(self, options: dict[str, Any], content: bytes) -> None:
        manager, _ = make_manager(ImageValidator(**options))
        assert manager.put_bytes("files", content=content).size == len(content)

    @pytest.mark.parametrize(
        ("options", "content", "code", "limit", "value"),
        [
            ({"min_width": 11}, picture(10, 5), "image_width", 11, 10),
            ({"max_width": 9}, picture(10, 5), "image_width", 9, 10),
            ({"max_width": 9}, turned(5, 10), "image_width", 9, 10),
            ({"min_height": 6}, picture(10, 5), "image_height", 6, 5),
            ({"max_height": 4}, picture(10, 5), "image_height", 4, 5),
            ({"max_aspect_ratio": 1}, picture(10, 5), "image_aspect_ratio", 1, 2.0),
            ({"min_aspect_ratio": 2.5}, picture(10, 5), "image_aspect_ratio", 2.5, 2.0),
            ({"formats": ["JPEG", "PNG"]}, picture(10, 5, "GIF"), "image_format", ("JPEG", "PNG"), None),
            ({"max_pixels": 49}, picture(10, 5), "image_too_many_pixels", 49, 50),
            ({"max_pixels": None}, b"%!PS-Adobe-3.0 EPSF\n%%BoundingBox: 0 0 9 9\n", "image_unreadable", None, None),
            ({}, b"no picture", "image_unreadable", None, None),
            ({"decode": True}, picture(100, 50, "BMP")[:-400], "image_unreadable", None, None),
        ],
    )
    def test_one_that_does_not_is_refused(
        self, options: dict[str, Any], content: bytes, code: str, limit: object, value: object
    ) -> None:
        manager, backend = make_manager(ImageValidator(**options))
        with pytest.raises(ValidationFailedError) as caught:
            manager.put_bytes("files", content=content)
        assert (caught.value.code, caught.value.limit, caught.value.value) == (code, limit, value)
        assert stored(backend) == []
        assert backend.open_readers == 0

    def test_a_small_file_of_very_many_pixels_is_refused_unseen(self) -> None:
        head = bytearray(picture(1, 1))
        head[16:24] = (60_000).to_bytes(4, "big") * 2  # a PNG's width and height, and their checksum
        head[29:33] = zlib.crc32(head[12:29]).to_bytes(4, "big")
        manager, _ = make_manager(ImageValidator(max_pixels=None))
        with pytest.raises(ValidationFailedError, match="too many pixels"):
            manager.put_bytes("files", content=bytes(head))

    def test_a_store_that_fails_is_not_the_picture_s_fault(self) -> None:
        manager, backend = make_manager(ImageValidator())
        backend.fail("open_reader", BackendUnavailableError("away"))
        with pytest.raises(BackendUnavailableError):
            manager.put_bytes("files", content=picture(1, 1))

    @pytest.mark.parametrize(
        "options",
        [{"min_width": 2, "max_width": 1}, {"max_pixels": 0}, {"min_height": -1}, {"formats": "PNG"}],
    )
    def test_what_cannot_be_meant_is_refused_at_once(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError):
            ImageValidator(**options)

    def test_a_format_that_pillow_does_not_know_is_the_application_s_fault(self) -> None:
        manager, backend = make_manager(ImageValidator(formats=["JPG2"]))
        with pytest.raises(ConfigurationError, match="JPG2"):
            manager.put_bytes("files", content=picture(1, 1))
        assert stored(backend) == []

    def test_without_pillow_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(MissingExtraError, match=r"granite-litestar\[images\]"):
            ImageValidator()
