"""The methods that the base derives, and the capabilities that a backend may claim."""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import zipfile
from typing import Any

import pytest

from granite_core.backends.base import Capability, StorageBackend
from granite_core.errors import ChecksumMismatchError, ObjectNotFoundError
from granite_core.testing.conformance.support import BackendTests, assert_same, noise

__all__ = ["DerivedTests"]


class DerivedTests(BackendTests):
    """``put_bytes``, ``put_stream``, ``get``, ``open``, ``exists``, ``iter_locations``, ``copy``, ``local_path``."""

    def test_the_identity_is_the_same_every_time(self, backend: StorageBackend) -> None:
        assert backend.identity
        assert all(isinstance(each, str) for each in backend.identity)
        assert backend.identity == backend.identity

    def test_a_diagnosis_finds_something_or_nothing_and_changes_nothing(self, backend: StorageBackend) -> None:
        backend.put_bytes("a/b", b"12345")
        for findings in (backend.diagnose(), backend.diagnose(origins=["https://app.example"])):
            assert all(each.code and each.found for each in findings)
        assert self.keys(backend) == ["a/b"]

    def test_putting_returns_a_ref_of_what_was_stored(self, backend: StorageBackend) -> None:
        named: dict[str, Any] = {"content_type": "text/plain", "original_filename": "a.txt", "extra": {"page": 1}}
        for ref, content in (
            (backend.put_bytes(key="a/b", content=b"12345", **named), b"12345"),
            (backend.put_stream(key="a/c", stream=io.BytesIO(b"123456789"), **named), b"123456789"),
        ):
            assert (ref.size, ref.checksum) == (len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")
            assert {name: getattr(ref, name) for name in named} == named
            assert (ref.backend, ref.storage_key) == (backend.backend_name, "")
            assert backend.get(ref) == backend.open(ref).read() == backend.get(ref.location) == content
            assert backend.exists(ref)

    @pytest.mark.parametrize("announced", [{"size": 4}, {"size": 6}, {"checksum": "sha256:00"}])
    def test_what_is_announced_is_not_believed(self, backend: StorageBackend, announced: dict[str, Any]) -> None:
        with pytest.raises(ChecksumMismatchError):
            backend.put_stream("a/b", io.BytesIO(b"12345"), **announced)
        assert self.keys(backend) == []
        checksum = f"sha256:{hashlib.sha256(b'12345').hexdigest().upper()}"
        assert backend.put_stream("a/b", io.BytesIO(b"12345"), size=5, checksum=checksum).size == 5

    def test_a_stream_is_read_from_where_it_stands_and_stays_open(self, backend: StorageBackend) -> None:
        stream = io.BytesIO(b"0123456789")
        stream.seek(4)
        assert backend.put_stream("a/b", stream).size == 6
        assert not stream.closed
        assert backend.get("a/b") == b"456789"

    def test_a_stream_needs_nothing_but_read(self, backend: StorageBackend) -> None:
        content = noise(100_000)

        class Trickle:
            position = 0

            def read(self, size: int, /) -> bytes:
                data = content[self.position : self.position + min(size, 777)]
                self.position += len(data)
                return data

        assert backend.put_stream("a/b", Trickle()).size == len(content)
        assert_same(backend.get("a/b"), content)

    def test_iter_locations_yields_keys(self, backend: StorageBackend) -> None:
        for key in ("a/1", "a/2", "b/1"):
            backend.put_bytes(key, b"")
        assert list(backend.iter_locations()) == ["a/1", "a/2", "b/1"]
        assert list(backend.iter_locations("a")) == ["a/1", "a/2"]

    def test_exists_tells_both(self, backend: StorageBackend) -> None:
        assert backend.exists("a/b") is False
        backend.put_bytes("a/b", b"")
        assert backend.exists("a/b") is True

    # -- open ----------------------------------------------------------------------------------------------------------

    def test_an_opened_object_is_a_seekable_file(self, backend: StorageBackend) -> None:
        content = noise(1_000_000)
        backend.put_bytes("a/b", content)
        with backend.open("a/b") as file:
            assert file.readable()
            assert file.seekable()
            assert file.read(10) == content[:10]
            assert file.tell() == 10
            assert file.seek(-10, io.SEEK_END) == 999_990
            assert file.read() == content[-10:]
            assert file.read() == b""
            file.seek(500_000)
            assert_same(file.read(300_000), content[500_000:800_000])
            file.seek(-5, io.SEEK_CUR)
            assert file.read(5) == content[799_995:800_000]
            file.seek(2_000_000)
            assert file.read() == b""
            file.seek(0)
            assert_same(file.read(), content)
        assert file.closed

    def test_an_opened_range_is_a_file_of_its_own(self, backend: StorageBackend) -> None:
        content = noise(100_000)
        backend.put_bytes("a/b", content)
        with backend.open("a/b", offset=1000, length=500) as file:
            assert file.seek(0, io.SEEK_END) == 500
            file.seek(490)
            assert file.read() == content[1490:1500]
            file.seek(0)
            assert file.read() == content[1000:1500]

    def test_an_opened_object_serves_zipfile(self, backend: StorageBackend) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("one.txt", "one")
            archive.writestr("two.bin", noise(200_000))
        backend.put_bytes("a.zip", buffer.getvalue())
        with backend.open("a.zip") as file, zipfile.ZipFile(file) as archive:
            assert archive.testzip() is None
            assert archive.read("one.txt") == b"one"
            assert_same(archive.read("two.bin"), noise(200_000))

    def test_an_opened_object_serves_csv(self, backend: StorageBackend) -> None:
        backend.put_bytes("a.csv", "name,city\r\nZoë,Zürich\r\n".encode())
        with backend.open("a.csv") as file:
            rows = list(csv.DictReader(io.TextIOWrapper(file, "utf-8", newline="")))
        assert rows == [{"name": "Zoë", "city": "Zürich"}]

    def test_an_opened_object_can_be_put_elsewhere(self, backend: StorageBackend) -> None:
        content = noise(self.large)
        backend.put_bytes("a/b", content)
        with backend.open("a/b") as file:
            assert backend.put_stream("a/c", file).size == len(content)
        with backend.open("a/c") as file:
            target = io.BytesIO()
            shutil.copyfileobj(file, target)
        assert_same(target.getvalue(), content)

    # -- copy ----------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [0, 1, 100_000, None])
    def test_a_copy_holds_the_same_bytes(self, backend: StorageBackend, size: int | None) -> None:
        content = noise(self.large if size is None else size)
        backend.put_bytes("a/b", content)
        backend.copy("a/b", "c/d")
        assert_same(backend.get("c/d"), content)
        assert self.keys(backend) == ["a/b", "c/d"]
        backend.delete("a/b")
        assert_same(backend.get("c/d"), content)

    def test_copying_what_is_absent_leaves_nothing(self, backend: StorageBackend) -> None:
        with pytest.raises(ObjectNotFoundError):
            backend.copy("a/absent", "c/d")
        assert self.keys(backend) == []

    # -- local path ----------------------------------------------------------------------------------------------------

    def test_a_local_path_names_a_file_with_exactly_the_object(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.LOCAL_PATH)
        backend.put_bytes("a/b", b"12345")
        path = backend.local_path("a/b")
        assert path is not None
        assert path.is_absolute()
        assert path.read_bytes() == b"12345"

    def test_without_the_capability_there_is_no_local_path(self, backend: StorageBackend) -> None:
        if Capability.LOCAL_PATH in backend.capabilities:
            pytest.skip("the backend claims local-path")
        backend.put_bytes("a/b", b"12345")
        assert backend.local_path("a/b") is None

    def test_a_closed_backend_can_be_used_again(self, backend: StorageBackend) -> None:
        backend.put_bytes("a/b", b"12345")
        backend.close()
        backend.close()
        assert backend.get("a/b") == b"12345"
