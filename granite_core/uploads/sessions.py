"""What an upload session is: values, without I/O."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final

from granite_core.refs import StagedFile, StoredObjectRef

__all__ = ["NOTHING_YET", "EndedUpload", "NewUpload", "Progress", "UploadSession", "UploadStatus"]


class UploadStatus(Enum):
    """Where an upload session stands."""

    RECEIVING = "receiving"
    """Bytes may come."""
    FINISHED = "finished"
    """The object is there, whole and accepted; the session holds it until a row does, or its time has come."""
    ENDING = "ending"
    """It is over, and what it left in the store is being removed. It holds nothing any more."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What must be known to go on with the bytes at an offset, beside the offset.

    Args:
        writer: The backend's own; see ``ResumableWriter``.
        sha256: The checksum so far; see ``resume_sha256``.
        head: The first bytes, until there are enough to tell the media type.
        content_type: Media type, once it is told.
        leftovers: Keys in the backend that go when the session goes, beside what ``writer`` names: what a client
            wrote directly to the store, for instance.
        upload: The store's name of an object that a client writes in parts, under the first of these keys.
    """

    writer: str | None = None
    sha256: str | None = None
    head: bytes = b""
    content_type: str | None = None
    leftovers: tuple[str, ...] = ()
    upload: str | None = None

    def to_json(self) -> str:
        """Return the text that is kept."""
        found = {
            "writer": self.writer,
            "sha256": self.sha256,
            "head": base64.b64encode(self.head).decode("ascii"),
            "type": self.content_type,
            **_shortened(self.leftovers),
            "upload": self.upload,
        }
        return json.dumps({name: value for name, value in found.items() if value})

    @classmethod
    def from_json(cls, text: str | None) -> Progress:
        """Read the text that was kept."""
        found = json.loads(text) if text else {}
        stem, count = found.get("numbered", ("", 0))
        return cls(
            writer=found.get("writer"),
            sha256=found.get("sha256"),
            head=base64.b64decode(found.get("head", "")),
            content_type=found.get("type"),
            leftovers=_numbered(stem, count) or tuple(found.get("leftovers", ())),
            upload=found.get("upload"),
        )


def _numbered(stem: str, count: int) -> tuple[str, ...]:
    return tuple(f"{stem}.{number}" for number in range(1, count + 1))


def _shortened(keys: tuple[str, ...]) -> dict[str, Any]:
    """Of a thousand parts the names are not written one by one into a row that every request reads."""
    stem = keys[0].removesuffix(".1") if len(keys) > 1 else ""
    return {"numbered": (stem, len(keys))} if stem and keys == _numbered(stem, len(keys)) else {"leftovers": keys}


NOTHING_YET: Final = Progress()


@dataclass(frozen=True, slots=True)
class NewUpload:
    """A session that is to be made.

    Args:
        id: What clients know it by; nobody can guess it.
        kind: What made it: ``"tus"``, ``"direct"``, ``"token"``.
        subject: Whom it belongs to; empty for nobody.
        file: The ref that the session holds: of the object that is there, or is planned.
        status: ``RECEIVING``, or ``FINISHED`` for a file that is staged already.
        length: How many bytes it will have; None where that is not known.
        details: What its maker wants to remember, JSON-compatible.
        progress: Where it begins.
    """

    id: str
    kind: str
    subject: str
    file: StoredObjectRef
    status: UploadStatus = UploadStatus.RECEIVING
    length: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress = NOTHING_YET


@dataclass(frozen=True, slots=True)
class UploadSession:
    """An upload session, as the database told of it.

    Attributes:
        id: What clients know it by.
        kind: What made it: ``"tus"``, ``"direct"``, ``"token"``.
        subject: Whom it belongs to; empty for nobody.
        status: Where it stands.
        storage_key: Policy of its file.
        backend: ``backend_key`` of where its bytes are.
        location: Key of the object. Never tell it to a client.
        planned: The ref of the object that will be: name and claimed type. None when the session is ending.
        file: The file, once it is finished: assign it to a field, and the flush takes it out of the session. A second
            row cannot have it from there. None before.
        offset: How many bytes have come and are kept.
        length: How many there will be; None where that is not known.
        details: What its maker wanted to remember.
        progress: How to go on.
        held: Whether somebody is writing to it.
        created_at: When it was made, by the database's clock.
        expires_at: When it ends unless bytes arrive, or a row takes its file.
        expired: Whether that time has passed.
    """

    id: str
    kind: str
    subject: str
    status: UploadStatus
    storage_key: str
    backend: str
    location: str
    planned: StoredObjectRef | None
    file: StagedFile | None
    offset: int
    length: int | None
    details: Mapping[str, Any]
    progress: Progress
    held: bool
    created_at: datetime
    expires_at: datetime
    expired: bool

    @property
    def is_complete(self) -> bool:
        """Whether all bytes have come."""
        return self.length is not None and self.offset == self.length


@dataclass(frozen=True, slots=True)
class EndedUpload:
    """A session that is over, and what has to be removed from the store before its row goes.

    Args:
        database: Number of the database that keeps it; 0 where there is one.
        id: Its id.
        storage_key: Policy of its file.
        backend: ``backend_key`` of where its bytes are.
        location: Key of the object.
        progress: Names what was written.
    """

    database: int
    id: str
    storage_key: str
    backend: str
    location: str
    progress: Progress
