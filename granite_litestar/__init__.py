"""Granite for Litestar: files uploaded, attached and served by an application's own routes."""

from typing import TYPE_CHECKING, Final

from granite_core._exports import exports_when_asked_for
from granite_litestar._raw_body import RawUpload
from granite_litestar._views import FileView, file_view, item_id
from granite_litestar.config import GraniteConfig
from granite_litestar.downloads import FileRoute
from granite_litestar.exceptions import (
    FieldError,
    FormValidationError,
    MalformedBodyError,
    UnsupportedBodyError,
    UploadInterruptedError,
    exception_handlers,
)
from granite_litestar.forms import FormLimits, MultipartBody, StreamingUploads, TokenRules, Upload, UploadDTO
from granite_litestar.openapi import DownloadOperation
from granite_litestar.plugin import GranitePlugin
from granite_litestar.responses import FileDownload

if TYPE_CHECKING:
    from granite_litestar._request_tokens import RequestTokens, SyncRequestTokens
    from granite_litestar._token_desk import TokenConfig
    from granite_litestar.direct import (
        DirectUploads,
        NewDirectUpload,
        begin_direct_form,
        complete_direct_upload,
    )
    from granite_litestar.resumable import ResumableUploads
    from granite_litestar.scheduling import CollectorRunner
    from granite_litestar.staged_uploads import StagedUploads
    from granite_litestar.upload_routes import PreconditionFailedError, UploadRoute
    from granite_litestar.upload_sessions import finished_upload, uploads_of

__all__ = [
    "CollectorRunner",
    "DirectUploads",
    "DownloadOperation",
    "FieldError",
    "FileDownload",
    "FileRoute",
    "FileView",
    "FormLimits",
    "FormValidationError",
    "GraniteConfig",
    "GranitePlugin",
    "MalformedBodyError",
    "MultipartBody",
    "NewDirectUpload",
    "PreconditionFailedError",
    "RawUpload",
    "RequestTokens",
    "ResumableUploads",
    "StagedUploads",
    "StreamingUploads",
    "SyncRequestTokens",
    "TokenConfig",
    "TokenRules",
    "UnsupportedBodyError",
    "Upload",
    "UploadDTO",
    "UploadInterruptedError",
    "UploadRoute",
    "begin_direct_form",
    "complete_direct_upload",
    "exception_handlers",
    "file_view",
    "finished_upload",
    "item_id",
    "uploads_of",
]

_WHEN_ASKED_FOR: Final = {
    "CollectorRunner": "granite_litestar.scheduling",
    "DirectUploads": "granite_litestar.direct",
    "NewDirectUpload": "granite_litestar.direct",
    "PreconditionFailedError": "granite_litestar.upload_routes",
    "RequestTokens": "granite_litestar._request_tokens",
    "ResumableUploads": "granite_litestar.resumable",
    "StagedUploads": "granite_litestar.staged_uploads",
    "SyncRequestTokens": "granite_litestar._request_tokens",
    "TokenConfig": "granite_litestar._token_desk",
    "UploadRoute": "granite_litestar.upload_routes",
    "begin_direct_form": "granite_litestar.direct",
    "complete_direct_upload": "granite_litestar.direct",
    "finished_upload": "granite_litestar.upload_sessions",
    "uploads_of": "granite_litestar.upload_sessions",
}

__getattr__, __dir__ = exports_when_asked_for(__name__, _WHEN_ASKED_FOR)
