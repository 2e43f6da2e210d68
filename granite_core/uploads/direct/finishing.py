"""What a client wrote is copied to a fresh key, and the copy is read, measured and judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from granite_core.errors import ObjectNotFoundError, UnfinishableError, UploadOffsetError
from granite_core.uploads.direct.plan import DirectPlan, DirectWay
from granite_core.uploads.direct.told import CHECKSUM, named

if TYPE_CHECKING:
    from granite_core.backends.base import ObjectReader, StorageBackend
    from granite_core.manager import StorageManager
    from granite_core.uploads.sessions import UploadSession

__all__ = ["CONTEXT", "Finishing"]

CONTEXT: Final = "context"
"""In the details of a session: values for the names in the policy's ``key_template``."""


class Finishing:
    """What a client wrote, on its way to a fresh key. Used by one thread at a time; everything blocks.

    Args:
        manager: Whose policies and backends are used.
        session: The upload, which is held by whoever does this.
    """

    def __init__(self, manager: StorageManager, session: UploadSession) -> None:
        self._session = session
        self._plan = DirectPlan.from_details(session.details)
        planned = session.planned
        self.write: Final = manager.stage(
            session.storage_key,
            filename=None if planned is None else planned.original_filename,
            content_type=None if planned is None else planned.content_type,
            expected_size=session.length,
            checksum=session.details.get(CHECKSUM),
            context=session.details.get(CONTEXT) or None,
        )
        self.write.hooks_to_ask()  # they were, when the upload began
        self.write.claim = None  # that is counted, and its file takes its place
        self.backend: Final = manager.get_backend(session.backend)
        self._stream: _Chain | None = None

    def begin(self) -> None:
        """See that everything is there, and begin to copy it."""
        plan = self._plan
        joined = plan.native and plan.way is DirectWay.PARTS
        if joined:
            self._join()
        sizes = []
        try:
            sizes = [self.backend.stat(key).size for key in plan.keys]
        except ObjectNotFoundError as error:
            if joined:
                raise UnfinishableError(
                    "the store has lost the parts", operation="direct", location=plan.key
                ) from error
            raise self._incomplete(0) from error
        if plan.way is DirectWay.PARTS and sum(sizes) != plan.limit:
            raise self._incomplete(sum(sizes))
        if len(plan.keys) == 1 and self.write.copies_by_itself(self.backend):
            self.write.copy_foreign(plan.key)
        else:
            self._stream = _Chain(self.backend, plan.keys)

    def step(self) -> bool:
        """Take the next piece; False at the end."""
        return self.write.judge_piece() if self._stream is None else self.write.write_piece(self._stream)

    def close(self) -> None:
        """End it; what was not committed is removed."""
        if self._stream is not None:
            self._stream.close()
        self.write.abort()

    def _join(self) -> None:
        backend, key, upload = self.backend, self._plan.key, named(self._session)
        try:
            arrived = sum(backend.list_parts(key, upload).values())
        except ObjectNotFoundError:
            return  # joined before, by somebody who died then; or the store has dropped them, which is asked next
        if arrived != self._plan.limit:
            raise self._incomplete(arrived)
        backend.join_parts(key, upload)

    def _incomplete(self, arrived: int) -> UploadOffsetError:
        return UploadOffsetError(
            f"{arrived} of the upload's bytes are there", operation="direct", limit=self._plan.size, value=arrived
        )


class _Chain:
    """Objects read one after the other, as one stream."""

    def __init__(self, backend: StorageBackend, keys: Sequence[str]) -> None:
        self._backend = backend
        self._keys = [*keys]
        self._reader: ObjectReader | None = None

    def read(self, size: int, /) -> bytes:
        while True:
            if self._reader is None:
                if not self._keys:
                    return b""
                self._reader = self._backend.open_reader(self._keys.pop(0))
            if data := self._reader.read(size):
                return data
            self.close()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
