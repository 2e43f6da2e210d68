"""What clients are shown of a file."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from granite_core import StoredObjectRef
from granite_core.events import object_id

__all__ = ["FileView", "file_view", "item_id"]


class FileView(msgspec.Struct, frozen=True):
    """What clients are shown of a file: nothing that tells where or under which key it is stored.

    Args:
        filename: Name it came with.
        size: Its length in bytes.
        content_type: Its media type.
        checksum: ``"sha256:"`` and the hexadecimal digest.
        id: What `item_id` answers: names the file in a URL, among those of a ``files_field``.
    """

    filename: Annotated[str | None, Meta(description="Name the file came with.")]
    size: Annotated[int, Meta(description="Length in bytes.", ge=0)]
    content_type: Annotated[str | None, Meta(description="Media type, judged on the bytes.")]
    checksum: Annotated[str | None, Meta(description="`sha256:` and the hexadecimal digest.")]
    id: Annotated[str, Meta(description="Names the file in URLs, among the files of a list.")]


def file_view(ref: StoredObjectRef) -> FileView:
    """Return what clients are shown of a stored file."""
    return FileView(
        filename=ref.original_filename,
        size=ref.size,
        content_type=ref.content_type,
        checksum=ref.checksum or None,
        id=item_id(ref),
    )


def item_id(ref: StoredObjectRef) -> str:
    """The stable id by which a URL names one file of a ``files_field``; it does not tell the file's key.

    Events and log lines name the file by the same id.
    """
    return object_id(ref.location)
