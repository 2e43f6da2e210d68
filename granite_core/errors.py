"""Everything Granite raises, named by what the caller does next.

One base, few children. Each carries what an operator needs (operation, backend, location, cause) and a stable
``code``; ``public_message`` is the part that may be shown to a client: it never holds a path, key or credential.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AccessDeniedError",
    "BackendError",
    "BackendUnavailableError",
    "ChecksumMismatchError",
    "CollectionRefusedError",
    "ConfigurationError",
    "ContentRejectedError",
    "ContentTooLargeError",
    "ContentTypeMismatchError",
    "ContentTypeNotAllowedError",
    "ContentUnavailableError",
    "InspectionUnavailableError",
    "InvalidKeyError",
    "InvalidSourceError",
    "MissingExtraError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "QuotaExceededError",
    "RemoteError",
    "RemoteRefusedError",
    "RemoteUnavailableError",
    "StaleRefError",
    "StorageError",
    "StorageFullError",
    "TokenExpiredError",
    "TokenInvalidError",
    "UnfinishableError",
    "UploadBusyError",
    "UploadDeniedError",
    "UploadGoneError",
    "UploadLostError",
    "UploadNotFoundError",
    "UploadOffsetError",
    "ValidationFailedError",
]


class StorageError(Exception):
    """Base of every error that Granite raises on purpose.

    Attributes:
        code: A stable, machine-readable name of the kind of failure.
        retryable: Whether the same call may succeed later without a change by the caller.
        operation: The verb that failed (``"open"``, ``"put"``, …), where known.
        backend: The ``backend_key`` or backend description, where known. For operators only.
        location: The object's key, where known. For operators only.
        field: The form or model field the failure belongs to, where known.
        limit: The limit that was passed, where there is one.
        value: The value that passed the limit, where there is one.
    """

    code: str = "storage_error"
    public: ClassVar[str] = "The file could not be processed."
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        operation: str | None = None,
        backend: str | None = None,
        location: str | None = None,
        field: str | None = None,
        limit: object = None,
        value: object = None,
    ) -> None:
        super().__init__(message)
        self.operation = operation
        self.backend = backend
        self.location = location
        self.field = field
        self.limit = limit
        self.value = value

    @property
    def public_message(self) -> str:
        """What may be told to a client: no path, key or credential."""
        return self.public


class ConfigurationError(StorageError):
    """The application is set up in a way that cannot work: change the set-up, not the call."""

    code = "configuration"


class MissingExtraError(ConfigurationError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""

    code = "missing_extra"

    def __init__(self, extra: str, feature: str) -> None:
        """Name the extra that brings what is missing.

        Args:
            extra: The extra's name, as in ``granite-litestar[s3]``.
            feature: What wanted it, for the message.
        """
        super().__init__(f'{feature} needs the extra "{extra}": pip install "granite-litestar[{extra}]"')
        self.extra = extra


class InvalidKeyError(StorageError, ValueError):
    """A key, or a piece of one, is not a safe object key (traversal, control characters, too long, reserved)."""

    code = "invalid_key"


class ContentRejectedError(StorageError):
    """The content breaks the policy: tell whoever sent it, and store nothing."""

    code = "content_rejected"
    public = "The file was refused."

    @property
    def public_message(self) -> str:
        """The whole message: it names only field, limit and value."""
        return str(self)


class ContentTooLargeError(ContentRejectedError):
    """More bytes came than the policy's ``max_size`` (or another limit, in bytes) allows."""

    code = "content_too_large"


class QuotaExceededError(ContentRejectedError):
    """Whoever this is stored for would have more than they may: delete something, or ask for more room.

    Attributes:
        used: What they have: bytes, or files where the limit is one of files.
        asked: What was to come on top of that.
    """

    code = "quota_exceeded"
    used: int = 0
    asked: int = 0

    @classmethod
    def of_bytes(cls, field: str, *, limit: int, used: int, asked: int) -> QuotaExceededError:
        """Say that there is no room for so many bytes."""
        text = f"{field}: {asked} bytes would be more than the {limit} that may be stored: {used} are used"
        return cls._made(text, field, limit=limit, used=used, asked=asked)

    @classmethod
    def of_files(cls, field: str, *, limit: int, used: int) -> QuotaExceededError:
        """Say that there are as many files as there may be."""
        text = f"{field}: no more than {limit} files may be stored: there are {used}"
        return cls._made(text, field, limit=limit, used=used, asked=1)

    @classmethod
    def _made(cls, text: str, field: str, *, limit: int, used: int, asked: int) -> QuotaExceededError:
        error = cls(text, operation="put", field=field, limit=limit, value=used + asked)
        error.used, error.asked = used, asked
        return error


class ContentTypeNotAllowedError(ContentRejectedError):
    """The bytes are of a media type that the policy does not accept."""

    code = "content_type_not_allowed"


class ContentTypeMismatchError(ContentTypeNotAllowedError):
    """The bytes are of another media type than the file's name or its sender says, and the policy minds."""

    code = "content_type_mismatch"


class ValidationFailedError(ContentRejectedError):
    """A validator of the policy refused the content."""

    code = "validation_failed"

    def __init__(
        self,
        reason: str,
        *,
        code: str | None = None,
        field: str | None = None,
        limit: object = None,
        value: object = None,
    ) -> None:
        """Refuse a content.

        Args:
            reason: What is wrong with it; told to whoever sent it.
            code: A stable, machine-readable name of what is wrong, in place of ``validation_failed``.
            field: The field it is about; known to whoever called the validator.
            limit: The limit that was passed, where there is one.
            value: The value that passed it.
        """
        super().__init__(reason, operation="put", field=field, limit=limit, value=value)
        self.reason = reason
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}" if self.field else self.reason


class UploadDeniedError(ContentRejectedError):
    """Whoever sends this may not: a hook of the policy said so before a byte was read."""

    code = "upload_denied"


class InvalidSourceError(ContentRejectedError, ValueError):
    """What was given in place of content cannot be read: a data URI that is none."""

    code = "invalid_source"


class RemoteError(ContentRejectedError):
    """A file that another server was to give was not had; nothing of it remains.

    Attributes:
        reason: What is wrong, for whoever gave the address. It names no address that the application's network has.
        detail: The rest, for operators.
    """

    code = "remote_error"

    def __init__(
        self,
        reason: str,
        *,
        detail: str | None = None,
        field: str | None = None,
        limit: object = None,
        value: object = None,
    ) -> None:
        """Say why it was not had.

        Args:
            reason: For whoever gave the address.
            detail: For operators: addresses, names, the system's own words.
            field: The field it is about; known to whoever stores it.
            limit: The limit that was passed, where there is one.
            value: The value that passed it.
        """
        super().__init__(reason, operation="put", field=field, limit=limit, value=value)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.public_message} ({self.detail})" if self.detail else self.public_message

    @property
    def public_message(self) -> str:
        """The reason, and the field it is about."""
        return f"{self.field}: {self.reason}" if self.field else self.reason


class RemoteRefusedError(RemoteError):
    """The address, or one that it led to, may not be fetched: give another."""

    code = "remote_refused"


class RemoteUnavailableError(RemoteError):
    """The other server did not give the file, or not whole and in time: try again, or give another address."""

    code = "remote_unavailable"
    retryable = True


class InspectionUnavailableError(StorageError):
    """Whoever inspects files, a virus scanner, cannot be asked, and no file is taken unseen: try again later."""

    code = "inspection_unavailable"
    public = "Files cannot be inspected at the moment: try again later."
    retryable = True


class ChecksumMismatchError(StorageError):
    """Bytes differ from what was announced or stored: size or SHA-256 do not match."""

    code = "checksum_mismatch"
    public = "The file's size or checksum does not match."


class ContentUnavailableError(StorageError):
    """The source of an unsaved file was read before and cannot be read again: supply it anew."""

    code = "content_unavailable"


class StaleRefError(StorageError):
    """A ref may not be written into a row any more: stage the content again.

    Either it was staged too long ago, or no committed row holds it, or it was let go already.
    """

    code = "stale_ref"
    public = "The upload is too old to be used: upload the file again."


class TokenInvalidError(StorageError):
    """A link or token is none of ours, or not one for this: treat it as if it did not exist."""

    code = "token_invalid"
    public = "The link or token is not valid."


class TokenExpiredError(StorageError):
    """A link or token was good and is no longer: hand out a new one to whoever may still have it."""

    code = "token_expired"
    public = "The link or token has expired."


class UploadNotFoundError(StorageError):
    """There is no such upload session, or none of this subject: begin a new one."""

    code = "upload_not_found"
    public = "There is no such upload."


class UploadGoneError(StaleRefError):
    """An upload session has ended: it expired, or a row has taken its file already. Begin a new one."""

    code = "upload_gone"
    public = "The upload has ended: upload the file again."


class UploadBusyError(StorageError):
    """Somebody else writes to the upload session at this moment: try again in a few seconds."""

    code = "upload_busy"
    public = "Somebody else is writing to this upload: try again in a few seconds."
    retryable = True


class UploadLostError(StorageError):
    """Somebody else has taken the upload session meanwhile: ask where it stands, and go on from there."""

    code = "upload_lost"
    public = "Somebody else has gone on with this upload: ask where it stands."
    retryable = True


class UploadOffsetError(StorageError):
    """The bytes do not belong where the upload session stands: ask for its offset, and go on from there."""

    code = "upload_offset"
    public = "These bytes do not belong where the upload stands."


class ObjectNotFoundError(StorageError):
    """The backend holds no object under this key."""

    code = "object_not_found"
    public = "The file does not exist."


class ObjectExistsError(StorageError):
    """A different object is already stored under the key; nothing was overwritten."""

    code = "object_exists"


class BackendError(StorageError):
    """The backend failed in a way that waiting will not mend (a broken disk, a refused request)."""

    code = "backend_error"


class UnfinishableError(BackendError):
    """The store has lost what was written in several goes, or will never make an object of it: send it again."""

    code = "unfinishable"
    public = "What was sent is lost: upload the file again."


class AccessDeniedError(BackendError):
    """The backend answered that these credentials may not do this (S3's 403, the disk's EACCES)."""

    code = "access_denied"


class BackendUnavailableError(BackendError):
    """The backend cannot be reached, or asks to slow down: try again later."""

    code = "backend_unavailable"
    public = "The storage is not available at the moment: try again later."
    retryable = True


class StorageFullError(BackendError):
    """There is no room for the bytes (a full disk, a quota, the largest file that there can be): make room."""

    code = "storage_full"
    public = "There is no room to store the file at the moment."
    retryable = True


class CollectionRefusedError(StorageError):
    """The collector found a reason to doubt that it looks in the right universe; it deleted and noted nothing."""

    code = "collection_refused"
