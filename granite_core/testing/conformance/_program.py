"""Random programs on a backend, and a dictionary that says what must come of them. Needs Hypothesis."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from granite_core.backends.base import Capability, ObjectReader, ObjectWriter, StorageBackend
from granite_core.errors import ObjectExistsError, ObjectNotFoundError, StorageError
from granite_core.testing.conformance.support import assert_same, noise

__all__ = ["run_programs"]

_number = count(1)  # a folder for each program: what a broken backend remembers of one does not confuse the next

# Few, so that a program meets the same one again; none is the folder of another.
_KEYS = ["A/b", "a.txt", "a/b", "a/b.txt", "x y/z+%2F", "ä/🙂"]
_PREFIXES = ["", "a", "a/", "a/b", "no", "x y/z+", "ä"]
_AT_ONCE = 3

key = st.sampled_from(_KEYS)
content = st.builds(noise, st.sampled_from([0, 1, 5, 1_000, 65_536, 70_001, 300_000]), st.integers(0, 3))
number = st.integers(0, _AT_ONCE - 1)
which = st.integers(0, len(_KEYS) - 1)
extent = st.one_of(st.integers(0, 20), st.integers(0, 400_000))


@dataclass
class _Writing:
    key: str
    writer: ObjectWriter
    written: bytearray = field(default_factory=bytearray)


@dataclass
class _Reading:
    key: str
    reader: ObjectReader
    content: bytes
    position: int
    deleted: bool = False


class _Program(RuleBasedStateMachine):
    """Writers, readers, copies, deletions and listings of one backend, in any order.

    Attributes:
        backend: An empty one; it is emptied again in the end.
        folder: Where this program keeps its objects.
    """

    backend: StorageBackend

    def __init__(self) -> None:
        super().__init__()
        self.creates_once = Capability.ATOMIC_CREATE in self.backend.capabilities
        self.folder = f"program-{next(_number)}/"
        self.objects: dict[str, bytes] = {}
        self.writing: list[_Writing] = []
        self.reading: list[_Reading] = []

    # -- writing -------------------------------------------------------------------------------------------------------

    @rule(key=key, content=content, streamed=st.booleans())
    def put(self, key: str, content: bytes, streamed: bool) -> None:
        key = self.folder + key
        if key not in self.objects:
            if streamed:
                ref = self.backend.put_stream(key, io.BytesIO(content))
            else:
                ref = self.backend.put_bytes(key, content)
            assert ref.size == len(content)
            self.objects[key] = content
        elif self.creates_once:
            try:
                self.backend.put_bytes(key, content)
            except ObjectExistsError:
                return
            raise AssertionError(f"{key} was taken, and was put again")

    @precondition(lambda self: self.objects)
    @rule(which=which, content=content)
    def put_anew(self, which: int, content: bytes) -> None:
        key = self.one_of_the_objects(which)
        self.delete(key=key.removeprefix(self.folder))
        self.backend.put_bytes(key, content)
        self.objects[key] = content

    @precondition(lambda self: len(self.writing) < _AT_ONCE)
    @rule(key=key)
    def begin_writing(self, key: str) -> None:
        key = self.folder + key
        self.writing.append(_Writing(key, self.backend.open_writer(key)))

    @precondition(lambda self: self.writing)
    @rule(number=number, content=content)
    def write(self, number: int, content: bytes) -> None:
        each = self.writing[number % len(self.writing)]
        each.writer.write(content)
        each.written += content

    @precondition(lambda self: self.writing)
    @rule(number=number)
    def commit(self, number: int) -> None:
        each = self.writing.pop(number % len(self.writing))
        if each.key not in self.objects:
            each.writer.commit()
            self.objects[each.key] = bytes(each.written)
        elif self.creates_once:
            try:
                each.writer.commit()
            except ObjectExistsError:
                each.writer.abort()
            else:
                raise AssertionError(f"{each.key} was taken, and a second writer was committed")
        else:
            each.writer.abort()

    @precondition(lambda self: self.writing)
    @rule(number=number)
    def abort(self, number: int) -> None:
        self.writing.pop(number % len(self.writing)).writer.abort()

    @rule(key=key)
    def delete(self, key: str) -> None:
        key = self.folder + key
        self.backend.delete(key)
        self._is_gone(key)

    @rule(keys=st.sets(key, max_size=4))
    def delete_many(self, keys: set[str]) -> None:
        going = [self.folder + each for each in sorted(keys)]
        assert self.backend.delete_many(going) == {}
        for each in going:
            self._is_gone(each)

    def _is_gone(self, key: str) -> None:
        self.objects.pop(key, None)
        for each in self.reading:
            each.deleted = each.deleted or each.key == key

    @rule(source=key, fresh=key)
    def copy(self, source: str, fresh: str) -> None:
        source, fresh = self.folder + source, self.folder + fresh
        if fresh in self.objects:
            return
        try:
            self.backend.copy(source, fresh)
        except ObjectNotFoundError:
            assert source not in self.objects, f"{source} is there, and was not found to be copied"
        else:
            self.objects[fresh] = self.objects[source]

    # -- reading -------------------------------------------------------------------------------------------------------

    @rule(key=key, offset=extent, length=st.none() | extent)
    def read(self, key: str, offset: int, length: int | None) -> None:
        key = self.folder + key
        expected = self.objects.get(key)
        try:
            reader = self.backend.open_reader(key, offset=offset, length=length)
        except ObjectNotFoundError:
            assert expected is None, f"{key} is there, and was not found"
            return
        with reader:
            assert expected is not None, f"{key} is not there, and was opened"
            assert reader.size == len(expected)
            assert_same(reader.read(), expected[offset:][:length])

    @precondition(lambda self: self.objects and len(self.reading) < _AT_ONCE)
    @rule(which=which, offset=extent)
    def begin_reading(self, which: int, offset: int) -> None:
        key = self.one_of_the_objects(which)
        reader = self.backend.open_reader(key, offset=offset)
        self.reading.append(_Reading(key, reader, self.objects[key], min(offset, len(self.objects[key]))))

    @precondition(lambda self: self.reading)
    @rule(number=number, size=st.integers(1, 100_000))
    def read_on(self, number: int, size: int) -> None:
        each = self.reading[number % len(self.reading)]
        try:
            data = each.reader.read(size)
        except StorageError:
            assert each.deleted, f"{each.key} is there, and cannot be read on"
            self.reading.remove(each)
            each.reader.close()
            return
        assert_same(data, each.content[each.position :][: len(data)])
        assert len(data) <= size
        assert data or each.position == len(each.content), f"{each.key} ended early"
        each.position += len(data)

    @precondition(lambda self: self.objects)
    @rule(which=which, seeks=st.lists(st.tuples(extent, st.integers(0, 2), st.integers(-1, 70_000)), max_size=4))
    def seek_and_read(self, which: int, seeks: list[tuple[int, int, int]]) -> None:
        key = self.one_of_the_objects(which)
        oracle = io.BytesIO(self.objects[key])
        with self.backend.open(key) as file:
            for offset, whence, size in seeks:
                target = -min(offset, len(self.objects[key])) if whence == io.SEEK_END else offset
                assert file.seek(target, whence) == oracle.seek(target, whence)
                assert_same(file.read(size), oracle.read(size))

    @rule(key=key)
    def tell(self, key: str) -> None:
        key = self.folder + key
        assert self.backend.exists(key) is (key in self.objects)
        if key in self.objects:
            assert self.backend.stat(key).size == len(self.objects[key])

    @rule(prefix=st.sampled_from(_PREFIXES), start_after=st.none() | key)
    def list_some(self, prefix: str, start_after: str | None) -> None:
        prefix, start_after = self.folder + prefix, start_after and self.folder + start_after
        listed = [each.location for each in self.backend.list_objects(prefix=prefix, start_after=start_after)]
        wanted = [each for each in self.sorted_keys() if each.startswith(prefix)]
        assert listed == [each for each in wanted if each.encode() > (start_after or "").encode()]

    @rule()
    def clear_unfinished(self) -> None:
        assert self.backend.clear_unfinished(timedelta(days=1)) == 0

    # -- what holds throughout, and in the end -------------------------------------------------------------------------

    def one_of_the_objects(self, which: int) -> str:
        return self.sorted_keys()[which % len(self.objects)]

    def sorted_keys(self) -> list[str]:
        return sorted(self.objects, key=str.encode)

    @invariant()
    def everything_is_listed(self) -> None:
        assert [each.location for each in self.backend.list_objects(prefix=self.folder)] == self.sorted_keys()

    def teardown(self) -> None:
        try:
            for writing in self.writing:
                writing.writer.abort()
            for reading in self.reading:
                reading.reader.close()
            for key, content in self.objects.items():
                assert_same(self.backend.get(key), content)
            assert self.backend.clear_unfinished(timedelta(seconds=-60)) == 0, "an aborted writer left something"
        finally:
            with contextlib.suppress(StorageError):  # a broken backend has said so above
                for each in list(self.backend.list_objects(prefix=self.folder)):
                    self.backend.delete(each.location)


def run_programs(backend: StorageBackend, programs: int, steps: int) -> None:
    """Run so many programs of at most so many steps, the same ones every time.

    Raises:
        AssertionError: The backend did something else than the dictionary; the shortest such program is printed.
    """
    run_state_machine_as_test(
        type("Program", (_Program,), {"backend": backend}),
        settings=settings(
            max_examples=programs,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=True,
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
