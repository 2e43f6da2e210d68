"""Stores in memory in the place of real ones, and what tests say of what is in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlsplit

from granite_core.aio import AsyncStorageManager
from granite_core.backends.base import Capability, StorageBackend
from granite_core.backends.memory import MemoryStorageBackend
from granite_core.errors import BackendError, ChecksumMismatchError, ObjectNotFoundError
from granite_core.manager import StorageManager
from granite_core.policies import StoragePolicy
from granite_core.testing.samples import Kind, aput_sample, put_sample

if TYPE_CHECKING:
    from granite_core.gc import SweepReport
    from granite_core.refs import StagedFile, StoredObjectRef

__all__ = [
    "MemoryStorage",
    "StoredObject",
    "assert_nothing_stored",
    "assert_only_stored",
    "assert_stored",
    "memory_manager",
    "memory_storage",
    "stored_objects",
]

ADDRESS: Final = "https://storage.invalid"
"""Where stores in memory say that their objects can be had; nobody answers there."""

_ADDRESSES: Final = frozenset({Capability.PRESIGNED_GET, Capability.PUBLIC_ADDRESS})


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object in a store.

    Args:
        backend_key: Key of its backend.
        location: Its key there.
        size: Its length in bytes.
    """

    backend_key: str
    location: str
    size: int
    _backend: StorageBackend = field(repr=False, compare=False)

    def read(self) -> bytes:
        """Return its content."""
        return self._backend.get(self.location)


def stored_objects(manager: StorageManager) -> list[StoredObject]:
    """Return every object in every backend of a manager, in the order of their keys."""
    return [
        StoredObject(key, each.location, each.size, backend)
        for key, backend in sorted(manager.backends.items())
        for each in backend.list_objects()
    ]


def assert_stored(manager: StorageManager, ref: StoredObjectRef | None, content: bytes | None = None) -> None:
    """Check that an object is there, whole, and what its ref says.

    Args:
        manager: Whose backends are looked in.
        ref: The object; None fails.
        content: What its bytes must be.

    Raises:
        AssertionError: It is not.
    """
    if ref is None:
        raise AssertionError("there is no ref: the field is empty")
    try:
        manager.verify(ref)
        found = None if content is None else manager.get(ref)
    except ObjectNotFoundError:
        raise AssertionError(f"{ref!r} is not stored; {_told(stored_objects(manager))}") from None
    except ChecksumMismatchError as error:
        raise AssertionError(f"{ref!r} is stored and is not what it was: {error}") from None
    if content is not None and found is not None and found != content:
        raise AssertionError(f"{ref!r} is stored and holds {_shown(found)}, not {_shown(content)}")


def assert_nothing_stored(manager: StorageManager) -> None:
    """Check that every backend of a manager is empty.

    Raises:
        AssertionError: One is not; the message names what is there.
    """
    if found := stored_objects(manager):
        raise AssertionError(f"nothing should be stored; {_told(found)}")


def assert_only_stored(manager: StorageManager, refs: Iterable[StoredObjectRef | None]) -> None:
    """Check that the objects of some refs are stored, whole, and no others.

    Args:
        manager: Whose backends are looked in.
        refs: Refs, in any order; one may come twice, None is passed over.

    Raises:
        AssertionError: One is missing, or there is another one; the message names it.
    """
    wanted = [ref for ref in refs if ref is not None]
    for ref in wanted:
        assert_stored(manager, ref)
    held = {(manager.name_of(ref)["backend_key"], ref.location) for ref in wanted}
    others = [each for each in stored_objects(manager) if (each.backend_key, each.location) not in held]
    if others:
        raise AssertionError(f"only {len(held)} objects should be stored; beside them {_told(others)}")


class MemoryStorage:
    """A manager whose backends are in memory, with what a test wants to do with it. Made by ``memory_storage``.

    Args:
        manager: The manager.

    Attributes:
        manager: The same.
        files: Its asynchronous form.
    """

    def __init__(self, manager: StorageManager) -> None:
        self.manager: Final = manager
        self.files: Final = AsyncStorageManager(manager)

    def put(self, storage_key: str, kind: Kind = "text", **upload: Any) -> StagedFile:
        """Store a sample, ready to be attached; see ``put_sample``."""
        return put_sample(self.manager, storage_key, kind, **upload)

    async def aput(self, storage_key: str, kind: Kind = "text", **upload: Any) -> StagedFile:
        """Store a sample, for asynchronous tests; see ``put_sample``."""
        return await aput_sample(self.manager, storage_key, kind, **upload)

    def stored_objects(self) -> list[StoredObject]:
        """Return every stored object; see ``stored_objects``."""
        return stored_objects(self.manager)

    def assert_stored(self, ref: StoredObjectRef | None, content: bytes | None = None) -> None:
        """Check that an object is there, whole; see ``assert_stored``."""
        assert_stored(self.manager, ref, content)

    def assert_nothing_stored(self) -> None:
        """Check that nothing is stored; see ``assert_nothing_stored``."""
        assert_nothing_stored(self.manager)

    def assert_only_stored(self, refs: Iterable[StoredObjectRef | None]) -> None:
        """Check that those objects are stored and no others; see ``assert_only_stored``."""
        assert_only_stored(self.manager, refs)

    def read_address(self, url: str) -> bytes:
        """Return what a client would get from the store under an address that the application sent it to.

        Raises:
            AssertionError: It is no address of these stores, or the object is not there.
        """
        parts = urlsplit(url)
        key, _, location = parts.path.removeprefix("/").partition("/")
        backend = self.manager.backends.get(unquote(key))
        if f"{parts.scheme}://{parts.netloc}" != ADDRESS or backend is None:
            raise AssertionError(f"{url} is no address of a store in memory")
        try:
            return backend.get(unquote(location))
        except BackendError as error:
            raise AssertionError(f"{url}: {error}") from None
        except ObjectNotFoundError:
            raise AssertionError(f"under {url} there is no object") from None

    def sweep_now(self, where: Any, metadata: Any = None, *, after: timedelta | None = None) -> SweepReport:
        """Collect as if the grace had passed; see ``sweep_now``."""
        from granite_core.testing.collecting import sweep_now

        return sweep_now(self.manager, where, metadata, after=after)

    async def asweep_now(self, where: Any, metadata: Any = None, *, after: timedelta | None = None) -> SweepReport:
        """Collect as if the grace had passed; see ``asweep_now``."""
        from granite_core.testing.collecting import asweep_now

        return await asweep_now(self.manager, where, metadata, after=after)


def memory_manager(*policies: StoragePolicy | str, **options: Any) -> StorageManager:
    """Return a new manager with stores in memory.

    Args:
        policies: Policies, or the names of policies that take everything.
        options: Further arguments of ``StorageManager``, ``grace`` for instance.
    """
    made = [StoragePolicy(each) if isinstance(each, str) else each for each in policies]
    keys = dict.fromkeys(["main", *(each.backend_key for each in made if each.backend_key)])
    return StorageManager({key: MemoryStorageBackend() for key in keys}, made, **options)


@contextmanager
def memory_storage(manager: StorageManager) -> Iterator[MemoryStorage]:
    """Put an empty store in memory in the place of every backend of a manager, for the length of a block.

    Everything that uses the manager uses them: an application it was given to, models it is registered for, the
    asynchronous manager, in every thread. Blocks may be nested. Nothing of the block is left in the manager.

    Where a backend can send clients to its store, its stand-in does so too, to an address that ``read_address`` reads.

    Args:
        manager: The application's own.
    """
    stand_ins = {key: _StandIn(key, backend.capabilities) for key, backend in manager.backends.items()}
    before = manager.take_notes()
    try:
        with manager.override(**stand_ins):
            yield MemoryStorage(manager)
    finally:
        manager.take_notes()  # of objects that are gone with their store
        manager.note(before)
        for each in stand_ins.values():
            each.close()


class _StandIn(MemoryStorageBackend):
    """In memory; gives addresses where the backend it stands in for does."""

    presign_limit = timedelta(days=7)

    def __init__(self, key: str, capabilities: Collection[Capability]) -> None:
        super().__init__()
        self._key = key
        self.capabilities = type(self).capabilities | (_ADDRESSES & frozenset(capabilities))

    def presign_get(self, location: str, **_: Any) -> str:
        """Return an address for ``MemoryStorage.read_address``."""
        return f"{ADDRESS}/{quote(self._key, safe='')}/{quote(location)}?signed"

    def public_address(self, location: str) -> str | None:
        """Return an address for ``MemoryStorage.read_address``."""
        return f"{ADDRESS}/{quote(self._key, safe='')}/{quote(location)}"


def _told(found: Collection[StoredObject]) -> str:
    if not found:
        return "nothing is"
    names = [f"{each.location} ({each.size} bytes, {each.backend_key})" for each in found]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"stored are {', '.join(names[:10])}{more}" if len(names) > 1 else f"stored is {names[0]}"


def _shown(content: bytes) -> str:
    return repr(content) if len(content) <= 60 else f"{content[:40]!r}… ({len(content)} bytes)"
