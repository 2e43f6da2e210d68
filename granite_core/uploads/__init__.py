"""Uploads that outlive their request.

An *upload session* is a row of ``granite_upload`` that holds a file, or the place where one will be. It is counted as
any row that holds a file: nothing of it is collected while it lives. It ends in one of three ways: a flush puts its
file into a row, and deletes it in the same transaction; it is discarded; or its time is over, and the sweep ends it.

Three things make sessions:

- **Bytes that come in several goes** (tus): ``create``, then ``receive`` for each go, whose ``finish`` makes the file
  once all bytes have come. One at a time writes; whoever dies is waited for a few seconds.
- **A file that is staged already**, kept past its request (tokens in forms): ``hold``.
- **Bytes that a client writes to the store itself** (``Direct``): a session whose ``Progress`` names the keys that it
  may write, so that they go with it, finished with a copy of them that was measured and judged. For ways
  of one's own: ``create``, and ``finish_with`` such a copy, staged as any file.

``find`` returns a session to whoever names its id, kind and subject. ``session.file`` of a finished one is assigned to
a field; the flush takes it out of the session, once: a second row is refused with ``UploadGoneError``. A file that
shall stay in its session, for a form that is shown once more, is just not assigned.

The rules of the policy hold throughout: a declared length before any byte, the type at the first bytes, validators at
the end. What is refused leaves nothing.
"""

from typing import TYPE_CHECKING, Final

from granite_core._exports import exports_when_asked_for

if TYPE_CHECKING:
    from granite_core.uploads.aio import AsyncReception, AsyncUploads
    from granite_core.uploads.direct import (
        AsyncDirect,
        AsyncDirectWrite,
        Direct,
        DirectInstructions,
        DirectParts,
        DirectRequest,
        DirectSettings,
        DirectWay,
    )
    from granite_core.uploads.ports import UploadLedger
    from granite_core.uploads.reception import Reception
    from granite_core.uploads.sessions import EndedUpload, NewUpload, Progress, UploadSession, UploadStatus
    from granite_core.uploads.settings import UploadSettings
    from granite_core.uploads.staged import AsyncStagedTokens, StagedToken, StagedTokens
    from granite_core.uploads.tokens import UploadTokens
    from granite_core.uploads.uploads import PARTIAL, Uploads

__all__ = [
    "PARTIAL",
    "AsyncDirect",
    "AsyncDirectWrite",
    "AsyncReception",
    "AsyncStagedTokens",
    "AsyncUploads",
    "Direct",
    "DirectInstructions",
    "DirectParts",
    "DirectRequest",
    "DirectSettings",
    "DirectWay",
    "EndedUpload",
    "NewUpload",
    "Progress",
    "Reception",
    "StagedToken",
    "StagedTokens",
    "UploadLedger",
    "UploadSession",
    "UploadSettings",
    "UploadStatus",
    "UploadTokens",
    "Uploads",
]

_WHEN_ASKED_FOR: Final = {
    "AsyncDirect": "granite_core.uploads.direct",
    "AsyncDirectWrite": "granite_core.uploads.direct",
    "AsyncReception": "granite_core.uploads.aio",
    "AsyncStagedTokens": "granite_core.uploads.staged",
    "AsyncUploads": "granite_core.uploads.aio",
    "Direct": "granite_core.uploads.direct",
    "DirectInstructions": "granite_core.uploads.direct",
    "DirectParts": "granite_core.uploads.direct",
    "DirectRequest": "granite_core.uploads.direct",
    "DirectSettings": "granite_core.uploads.direct",
    "DirectWay": "granite_core.uploads.direct",
    "EndedUpload": "granite_core.uploads.sessions",
    "NewUpload": "granite_core.uploads.sessions",
    "PARTIAL": "granite_core.uploads.uploads",
    "Progress": "granite_core.uploads.sessions",
    "Reception": "granite_core.uploads.reception",
    "StagedToken": "granite_core.uploads.staged",
    "StagedTokens": "granite_core.uploads.staged",
    "UploadLedger": "granite_core.uploads.ports",
    "UploadSession": "granite_core.uploads.sessions",
    "UploadSettings": "granite_core.uploads.settings",
    "UploadStatus": "granite_core.uploads.sessions",
    "UploadTokens": "granite_core.uploads.tokens",
    "Uploads": "granite_core.uploads.uploads",
}

__getattr__, __dir__ = exports_when_asked_for(__name__, _WHEN_ASKED_FOR)
