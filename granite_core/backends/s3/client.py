"""boto3: how its client is made, and what its errors mean."""

from __future__ import annotations

from typing import Any, Final

from granite_core.backends.s3.answers import ForeignAnswerError
from granite_core.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    MissingExtraError,
    ObjectNotFoundError,
    StorageError,
    StorageFullError,
)

__all__ = ["boto_errors", "error_code", "failure", "http_status", "make_client"]

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 60.0

_ABSENT: Final = frozenset({"NoSuchKey", "NotFound"})
_UNAVAILABLE: Final = frozenset(
    {
        *("SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded"),
        *("RequestTimeout", "IncompleteBody", "OperationAborted"),
        # The bytes that arrived are not those that were sent.
        *("BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"),
    }
)
_FULL: Final = frozenset({"QuotaExceeded", "XMinioStorageFull"})
_NOT_THE_STORE: Final = frozenset({302, 303, 307, 308, 404, 408, 429})
"""Without an error code of S3 in the body, these come from something in between."""
_DENIED: Final = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"})


def make_client(
    *,
    endpoint_url: str | None,
    region: str | None,
    connections: int,
    connect_timeout: float | None = None,
    read_timeout: float | None = None,
    max_attempts: int | None = None,
) -> Any:
    """Make a client that retries as AWS recommends and sends the checksums that we give it.

    A session of its own: the default session is not safe for threads.

    Args:
        endpoint_url: The store's address; AWS where absent.
        region: The bucket's.
        connections: How many it keeps open.
        connect_timeout: Seconds; see ``S3StorageBackend``.
        read_timeout: Seconds.
        max_attempts: How often a request is tried; what the environment says, or three times, where absent.

    Raises:
        MissingExtraError: boto3 is not installed.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise MissingExtraError("s3", "S3StorageBackend") from error
    settings: dict[str, Any] = {
        "retries": {"mode": "standard", **({"total_max_attempts": max_attempts} if max_attempts else {})},
        "connect_timeout": connect_timeout or CONNECT_SECONDS,
        "read_timeout": read_timeout or READ_SECONDS,
        "max_pool_connections": connections,
    }
    try:
        # Not every store knows checksums in trailers, which boto3 would add; ours go in the head.
        config = Config(
            **settings,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
    except TypeError:  # boto3 before 1.36 adds none
        config = Config(**settings)
    client = boto3.session.Session().client("s3", endpoint_url=endpoint_url, region_name=region, config=config)
    _sign_once(client)
    return client


def _sign_once(client: Any) -> None:
    """Leave contents out of the signature where TLS protects them, unless the user's configuration says otherwise.

    boto3 does so itself, but does not see that the checksum is there when it comes from us, and would take a SHA-256 of
    everything.
    """
    said = client.meta.config.s3 or {}
    if client.meta.endpoint_url.startswith("https:") and said.get("payload_signing_enabled") is None:
        client.meta.config.s3 = {**said, "payload_signing_enabled": False}


def boto_errors() -> tuple[type[Exception], ...]:
    """Return the classes of what a call of boto3, or reading a body, may raise; for an ``except`` clause."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError
    except ImportError:
        return ()  # the clause must let the error through that names the extra
    return (ClientError, BotoCoreError, HTTPError, OSError, ForeignAnswerError)


def error_code(error: BaseException) -> str:
    """Return S3's name for an error, or ``""``."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def http_status(error: BaseException) -> int:
    """Return the HTTP status of an error, or 0."""
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    return int(metadata.get("HTTPStatusCode") or 0)


def failure(error: BaseException, operation: str, location: str) -> StorageError:
    """Return the error to raise for one of boto3. Its message holds no key, address or credential."""
    code, status = error_code(error), http_status(error)
    if code == "404" and operation == "stat":  # the answer to a HEAD has no body to name the error
        code = "NotFound"
    kind = _kind(error, code, status)
    text = f"{code} (HTTP {status})" if code or status else type(error).__name__
    return kind(f"{operation}: {text}", operation=operation, backend="s3", location=location)


def _kind(error: BaseException, code: str, status: int) -> type[StorageError]:
    from botocore import exceptions

    if code in _ABSENT:
        return ObjectNotFoundError
    if code in _FULL or status == 507:
        return StorageFullError
    if code in _DENIED or status in (401, 403):
        return AccessDeniedError
    if code in _UNAVAILABLE or status == 429 or (status >= 500 and status != 501):
        return BackendUnavailableError
    if code in ("", str(status)) and status in _NOT_THE_STORE:
        return BackendUnavailableError
    if isinstance(error, exceptions.ClientError):
        return BackendError
    credentials = (
        *(exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError),
        *(exceptions.TokenRetrievalError, exceptions.NoAuthTokenError, exceptions.UnauthorizedSSOTokenError),
    )
    if isinstance(error, credentials):
        return AccessDeniedError
    network = (
        *(exceptions.HTTPClientError, exceptions.IncompleteReadError, exceptions.FlexibleChecksumError),
        *(exceptions.ConnectionError, exceptions.ResponseStreamingError),
    )
    if isinstance(error, network) or not isinstance(error, exceptions.BotoCoreError):
        return BackendUnavailableError
    return BackendError
