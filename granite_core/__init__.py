"""Granite: file attachments for SQLAlchemy models, independent of any web framework."""

from typing import TYPE_CHECKING, Final

from granite_core._exports import exports_when_asked_for
from granite_core.aio import AsyncObjectReader, AsyncStagedWrite, AsyncStorageManager
from granite_core.backends.adapter import AdaptedStorageBackend, SevenMethodBackend
from granite_core.backends.base import (
    Capability,
    ObjectReader,
    ObjectStat,
    ObjectWriter,
    ReadableStream,
    ResumableWriter,
    StorageBackend,
)
from granite_core.backends.local import LocalStorageBackend
from granite_core.backends.memory import MemoryStorageBackend
from granite_core.backends.url import backend_from_url
from granite_core.claims import AsyncQuotas, Quotas
from granite_core.data_uris import DataURI, from_data_uri
from granite_core.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ChecksumMismatchError,
    CollectionRefusedError,
    ConfigurationError,
    ContentRejectedError,
    ContentTooLargeError,
    ContentTypeMismatchError,
    ContentTypeNotAllowedError,
    ContentUnavailableError,
    InspectionUnavailableError,
    InvalidKeyError,
    InvalidSourceError,
    MissingExtraError,
    ObjectExistsError,
    ObjectNotFoundError,
    QuotaExceededError,
    RemoteError,
    RemoteRefusedError,
    RemoteUnavailableError,
    StaleRefError,
    StorageError,
    StorageFullError,
    TokenExpiredError,
    TokenInvalidError,
    UnfinishableError,
    UploadBusyError,
    UploadDeniedError,
    UploadGoneError,
    UploadLostError,
    UploadNotFoundError,
    UploadOffsetError,
    ValidationFailedError,
)
from granite_core.findings import Finding, Severity
from granite_core.hooks import AfterCommit, Announcement, BeforeUpload, Committed
from granite_core.limited import SizeLimitedStream
from granite_core.manager import PutOptions, StorageManager
from granite_core.offloading import Offload
from granite_core.options import NO_OPTIONS, WriteOptions
from granite_core.policies import Delivery, StoragePolicy
from granite_core.progress import ProgressCallback
from granite_core.quotas import Quota, QuotaLimit, QuotaUsage
from granite_core.refs import StagedFile, StoredObjectRef
from granite_core.remote import FetchRules, RemoteFile, from_url
from granite_core.sources import SourceInput, unsaved
from granite_core.staging import StagedWrite
from granite_core.urls import FileLink, RowLink, UrlPlan, UrlSettings
from granite_core.validation import AsyncReadable, Candidate, Validator

if TYPE_CHECKING:
    from granite_core.backends.obstore import ObstoreStorageBackend
    from granite_core.backends.s3 import S3StorageBackend
    from granite_core.integrations.sqlalchemy import (
        ReplaceContentResult,
        StorageJSONType,
        StoredContentMixin,
        StoredObjectRefType,
        portable_storage_ref_type,
    )

__all__ = [
    "NO_OPTIONS",
    "AccessDeniedError",
    "AdaptedStorageBackend",
    "AfterCommit",
    "Announcement",
    "AsyncObjectReader",
    "AsyncQuotas",
    "AsyncReadable",
    "AsyncStagedWrite",
    "AsyncStorageManager",
    "BackendError",
    "BackendUnavailableError",
    "BeforeUpload",
    "Candidate",
    "Capability",
    "ChecksumMismatchError",
    "CollectionRefusedError",
    "Committed",
    "ConfigurationError",
    "ContentRejectedError",
    "ContentTooLargeError",
    "ContentTypeMismatchError",
    "ContentTypeNotAllowedError",
    "ContentUnavailableError",
    "DataURI",
    "Delivery",
    "FetchRules",
    "FileLink",
    "Finding",
    "InspectionUnavailableError",
    "InvalidKeyError",
    "InvalidSourceError",
    "LocalStorageBackend",
    "MemoryStorageBackend",
    "MissingExtraError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "ObjectReader",
    "ObjectStat",
    "ObjectWriter",
    "ObstoreStorageBackend",
    "Offload",
    "ProgressCallback",
    "PutOptions",
    "Quota",
    "QuotaExceededError",
    "QuotaLimit",
    "QuotaUsage",
    "Quotas",
    "ReadableStream",
    "RemoteError",
    "RemoteFile",
    "RemoteRefusedError",
    "RemoteUnavailableError",
    "ReplaceContentResult",
    "ResumableWriter",
    "RowLink",
    "S3StorageBackend",
    "SevenMethodBackend",
    "Severity",
    "SizeLimitedStream",
    "SourceInput",
    "StagedFile",
    "StagedWrite",
    "StaleRefError",
    "StorageBackend",
    "StorageError",
    "StorageFullError",
    "StorageJSONType",
    "StorageManager",
    "StoragePolicy",
    "StoredContentMixin",
    "StoredObjectRef",
    "StoredObjectRefType",
    "TokenExpiredError",
    "TokenInvalidError",
    "UnfinishableError",
    "UploadBusyError",
    "UploadDeniedError",
    "UploadGoneError",
    "UploadLostError",
    "UploadNotFoundError",
    "UploadOffsetError",
    "UrlPlan",
    "UrlSettings",
    "ValidationFailedError",
    "Validator",
    "WriteOptions",
    "backend_from_url",
    "from_data_uri",
    "from_url",
    "portable_storage_ref_type",
    "unsaved",
]

_SQLALCHEMY: Final = "granite_core.integrations.sqlalchemy"
_WHEN_ASKED_FOR: Final = {
    "ObstoreStorageBackend": "granite_core.backends.obstore",
    "ReplaceContentResult": _SQLALCHEMY,
    "S3StorageBackend": "granite_core.backends.s3",
    "StorageJSONType": _SQLALCHEMY,
    "StoredContentMixin": _SQLALCHEMY,
    "StoredObjectRefType": _SQLALCHEMY,
    "portable_storage_ref_type": _SQLALCHEMY,
}

__getattr__, __dir__ = exports_when_asked_for(__name__, _WHEN_ASKED_FOR)
