"""The table from Granite's errors to answers."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from litestar import get
from litestar.testing import create_test_client

import granite_core
from granite_core import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ChecksumMismatchError,
    CollectionRefusedError,
    ConfigurationError,
    ContentRejectedError,
    ContentTooLargeError,
    ContentTypeNotAllowedError,
    InvalidKeyError,
    MissingExtraError,
    ObjectNotFoundError,
    StaleRefError,
    StorageError,
    StorageFullError,
    TokenExpiredError,
    TokenInvalidError,
)
from granite_core.events import object_id
from granite_litestar.exceptions import FieldError, FormValidationError, exception_handlers, status_of

SECRET = "s3://bucket/key?credential=hunter2"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ContentTooLargeError("x"), 413),
        (ContentTypeNotAllowedError("x"), 415),
        (ContentRejectedError("x"), 422),
        (ChecksumMismatchError("x", operation="put"), 422),
        (ChecksumMismatchError("x", operation="verify"), 500),
        (StaleRefError("x"), 409),
        (ObjectNotFoundError("x"), 404),
        (TokenInvalidError("x"), 404),
        (TokenExpiredError("x"), 410),
        (BackendUnavailableError("x"), 503),
        (StorageFullError("x"), 507),
        (AccessDeniedError("x"), 500),
        (BackendError("x"), 500),
        (ConfigurationError("x"), 500),
        (MissingExtraError("s3", "S3"), 500),
        (CollectionRefusedError("x"), 500),
        (InvalidKeyError("x", operation="put", field="tenant"), 400),
        (InvalidKeyError("x", operation="open"), 500),
    ],
)
def test_every_error_has_a_status(error: StorageError, status: int) -> None:
    assert status_of(error) == status


def test_no_error_is_left_out() -> None:
    kinds = [getattr(granite_core, name) for name in granite_core.__all__ if name.endswith("Error")]
    for kind in kinds:
        error = kind("s3", "x") if kind is MissingExtraError else kind("x")
        assert status_of(error) >= 400


def answer_to(error: Exception, **options: Any) -> Any:
    @get("/")
    async def fail() -> None:
        raise error

    # Litestar's own logging would take the records away from the test.
    options = {"debug": False, "logging_config": None} | options
    with create_test_client([fail], exception_handlers=exception_handlers(), **options) as client:
        return client.get("/")


def test_a_refused_content_is_told_with_field_limit_and_value() -> None:
    response = answer_to(ContentTooLargeError("file: more than 5", field="file", limit=5, value=6, location=SECRET))
    assert response.status_code == 413
    assert response.json() == {
        "status_code": 413,
        "detail": "file: more than 5",
        "extra": {"code": "content_too_large", "field": "file", "limit": 5, "value": 6},
    }


def test_a_refused_type_lists_what_is_accepted() -> None:
    error = ContentTypeNotAllowedError("x", field="file", limit=("image/*",), value="text/html")
    assert answer_to(error).json()["extra"] == {
        "code": "content_type_not_allowed",
        "field": "file",
        "limit": ["image/*"],
        "value": "text/html",
    }


@pytest.mark.parametrize(
    "kind", [BackendError, AccessDeniedError, BackendUnavailableError, ConfigurationError, ObjectNotFoundError]
)
def test_what_is_the_operators_business_never_reaches_a_client(
    kind: type[StorageError], caplog: pytest.LogCaptureFixture
) -> None:
    error = kind(f"failed at {SECRET}", operation="open", backend="main", location=SECRET, value=SECRET)
    with caplog.at_level(logging.ERROR, "granite"):
        response = answer_to(error)
    assert "hunter2" not in response.text
    assert "hunter2" not in str(response.headers)
    [record] = [each for each in caplog.records if each.name == "granite.requests"]
    assert all(word in record.getMessage() for word in (object_id(SECRET), "open", "main", error.code))
    assert "hunter2" not in caplog.text


def test_an_unavailable_backend_says_when_to_come_back() -> None:
    response = answer_to(BackendUnavailableError("x"))
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0


def test_an_error_of_ours_looks_like_any_other_500() -> None:
    assert answer_to(BackendError("x")).json() == {"status_code": 500, "detail": "Internal Server Error"}


def test_while_debugging_the_error_is_shown() -> None:
    assert "BackendError" in answer_to(BackendError("x"), debug=True).text


def test_the_answer_is_json_whatever_the_handler_returns() -> None:
    @get("/", media_type="image/png")
    async def fail() -> bytes:
        raise ObjectNotFoundError("x")

    with create_test_client([fail], exception_handlers=exception_handlers()) as client:
        assert client.get("/").json()["status_code"] == 404


def test_a_form_that_does_not_validate_lists_every_field() -> None:
    errors = [FieldError("title", "required", "this field is required"), FieldError("a", "too_many", "m", 2, 3)]
    response = answer_to(FormValidationError(errors))
    assert response.status_code == 422
    assert response.json() == {
        "status_code": 422,
        "detail": "The form is not valid: title, a",
        "extra": [
            {"field": "title", "code": "required", "message": "this field is required"},
            {"field": "a", "code": "too_many", "message": "m", "limit": 2, "value": 3},
        ],
    }
