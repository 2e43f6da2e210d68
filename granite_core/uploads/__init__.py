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
