"""obstore itself: imported when it is used, in one process, and what its errors mean."""

from __future__ import annotations

import errno
import os
import re
from typing import Any, Final

from granite_core.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    InvalidKeyError,
    MissingExtraError,
    ObjectNotFoundError,
    StorageError,
    StorageFullError,
)
from granite_core.keys import split_key

__all__ = ["check_path", "error_code", "failure", "http_status", "library", "obstore_errors"]

_processes: Final[set[int]] = set()

# What can only be found in the text of an error: the status line, and the name in the body of the answer.
_STATUS: Final = re.compile(r"Server returned non-2xx status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>(\w{1,64})</Code>")
_OS_ERROR: Final = re.compile(r"\(os error (\d+)\)")
_NOT_IN_PATHS: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

_NOT_A_KEY: Final = frozenset({"NoSuchBucket", "NoSuchUpload", "ContainerNotFound"})
_DENIED: Final = frozenset(
    {"AccessDenied", "AuthenticationFailed", "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
)
_UNAVAILABLE: Final = frozenset(
    {
        *("ServerBusy", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded"),
        *("RequestTimeout", "IncompleteBody", "OperationAborted"),
        # The bytes that arrived are not those that were sent.
        *("BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"),
    }
)
_FULL: Final = frozenset({"QuotaExceeded", "XMinioStorageFull"})
_NOT_THE_STORE: Final = frozenset({302, 303, 307, 308, 404, 408, 429})
"""Without the store's name for an error in the body, these come from something in between."""
_OF_DISKS: Final[dict[int, type[StorageError]]] = {
    errno.EACCES: AccessDeniedError,
    errno.ENOTDIR: ObjectNotFoundError,
    errno.EISDIR: ObjectNotFoundError,
    errno.ENOSPC: StorageFullError,
    errno.EDQUOT: StorageFullError,
}
_FOREIGN_KEY: Final = "contained empty path segment"
_METADATA_SERVICES: Final = ("169.254.169.254", "169.254.170.2", "metadata.google.internal", "metadata/identity")


def library() -> Any:
    """Return the module ``obstore``.

    Its threads do not survive a fork, and a call that waits for them hangs. So it is refused where a parent used it.

    Raises:
        MissingExtraError: It is not installed.
        ConfigurationError: It was used before this process was forked.
    """
    try:
        import obstore
    except ImportError as error:
        raise MissingExtraError("obstore", "ObstoreStorageBackend") from error
    _processes.add(os.getpid())
    if len(_processes) > 1:
        raise ConfigurationError(
            "obstore was used before this process was forked, and hangs after that: start processes with the method"
            ' "spawn", or fork before the first use'
        )
    return obstore


def obstore_errors() -> tuple[type[Exception], ...]:
    """Return the classes of what a call of obstore may raise; for an ``except`` clause."""
    try:
        from obstore.exceptions import BaseError
    except ImportError:
        return ()  # the clause must let the error through that names the extra
    return (BaseError, OSError, NotImplementedError)


def check_path(location: str) -> None:
    """Refuse a key that could lead elsewhere, or that obstore would change.

    Raises:
        InvalidKeyError: It is such a key.
    """
    split_key(location)
    if _NOT_IN_PATHS.search(location):
        raise InvalidKeyError(f"obstore takes no control characters: {location!r}", value=location)


def http_status(error: BaseException, key: str) -> int:
    """Return the HTTP status of an error, or 0.

    Args:
        error: What obstore raised.
        key: Whose text is not to be mistaken for the store's.
    """
    found = _STATUS.search(_text(error, key))
    return int(found.group(1)) if found else 0


def error_code(error: BaseException, key: str) -> str:
    """Return the store's name for an error, or ``""``."""
    found = _CODE.search(_text(error, key))
    return found.group(1) if found else ""


def failure(error: BaseException, operation: str, location: str, *, key: str = "") -> StorageError:
    """Return the error to raise for one of obstore. Its message holds no key, address or credential.

    Args:
        error: What obstore raised.
        operation: What was tried.
        location: The object's key in the backend.
        key: Its key in the store.
    """
    code, status = error_code(error, key), http_status(error, key)
    kind = _kind(error, code, status, _text(error, key))
    text = f"{code} (HTTP {status})" if code or status else type(error).__name__
    return kind(f"{operation}: {text}", operation=operation, backend="obstore", location=location)


def _kind(error: BaseException, code: str, status: int, text: str) -> type[StorageError]:
    name = type(error).__name__
    if isinstance(error, FileNotFoundError):
        foreign = status == 404 and not code and "Error performing HEAD" not in text  # whose answer has no body
        return BackendUnavailableError if foreign else BackendError if code in _NOT_A_KEY else ObjectNotFoundError
    if code in _FULL or status == 507 or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError
    if name in ("PermissionDeniedError", "UnauthenticatedError") or status in (401, 403) or code in _DENIED:
        return AccessDeniedError
    if status == 429 or code in _UNAVAILABLE or (status >= 500 and status != 501):
        return BackendUnavailableError
    if not code and status in _NOT_THE_STORE:
        return BackendUnavailableError
    return _kind_without_status(text) if name == "GenericError" and not status else BackendError


def _kind_without_status(text: str) -> type[StorageError]:
    if "LocalFileSystem" in text or "InMemory" in text:
        found = _OS_ERROR.search(text)
        return _OF_DISKS.get(int(found.group(1)) if found else 0, BackendError)
    if any(each in text for each in _METADATA_SERVICES):
        return AccessDeniedError  # there are no credentials here, and nobody who hands them out
    # No connection, a broken one, or an answer that the store would not give, as good as none.
    return BackendError if _FOREIGN_KEY in text else BackendUnavailableError


def _text(error: BaseException, key: str) -> str:
    """What was said without the key, which comes first, and without obstore's second, longer telling of it."""
    text = str(error).partition("\n\nDebug source:")[0]
    return text.replace(key, "", 1) if key else text
