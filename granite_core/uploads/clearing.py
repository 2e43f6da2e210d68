"""Removing what an upload session left in a store."""

from __future__ import annotations

from collections.abc import Sequence

from granite_core.backends.base import Capability, StorageBackend
from granite_core.backends.pieces import discard_pieces, piece_keys_of_goes
from granite_core.uploads.sessions import EndedUpload

__all__ = ["clear_away"]


def clear_away(backend: StorageBackend, ended: EndedUpload) -> Sequence[str]:
    """Remove what a session that has ended left in the store, but for an object that was committed.

    Of that its tombstone tells, and the sweep looks before it deletes. Idempotent.

    Args:
        backend: Where it is.
        ended: Which.

    Returns:
        Keys under which something may still be written, by a go that is not over yet or by a client whose request is
        still good: they get tombstones when the session's row goes.

    Raises:
        BackendError: Something may still be there.
    """
    late: Sequence[str] = ()
    if ended.progress.leftovers and ended.progress.writer is None:
        pass  # a client wrote it, under those keys and no other
    elif Capability.RESUMABLE_WRITES in backend.capabilities:
        backend.discard_unfinished(ended.location, ended.progress.writer)
    else:
        discard_pieces(backend, ended.location, ended.progress.writer)
        late = piece_keys_of_goes(ended.location, ended.progress.writer)
    for key in ended.progress.leftovers:
        if Capability.PRESIGNED_PARTS in backend.capabilities:
            backend.discard_parts(key, ended.progress.upload)
        backend.delete(key)
    return [*late, *ended.progress.leftovers]
