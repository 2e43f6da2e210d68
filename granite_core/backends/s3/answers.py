"""Asking the store: an answer that S3 would not give is as good as none.

Whatever sits between us and a store may answer in its place: a captive portal with a page and 200, a balancer that has
lost its backends, half a head. boto3 takes most of it for success, with fields missing. What an answer must say is held
against it here; what it lacks becomes the same error as a broken connection, so that "stored" is believed of the store
alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["ForeignAnswerError", "ask", "pages"]

_SAYS: Final = {
    "complete_multipart_upload": ("ETag",),
    "copy_object": ("CopyObjectResult", "ETag"),
    "create_multipart_upload": ("UploadId",),
    "get_object": ("ETag", "ContentLength"),
    "head_object": ("ETag", "ContentLength", "LastModified"),
    "list_multipart_uploads": ("IsTruncated",),
    "list_object_versions": ("IsTruncated",),
    "list_objects_v2": ("IsTruncated",),
    "list_parts": ("IsTruncated",),
    "put_object": ("ETag",),
    "upload_part": ("ETag",),
    "upload_part_copy": ("CopyPartResult", "ETag"),
}
"""What S3 always says in its answers (S3 API, "Response Elements"), of what we rely on."""

_RESULTS: Final = frozenset({"CopyObjectResult", "CopyPartResult"})


class ForeignAnswerError(Exception):
    """What came is no answer of S3."""


def ask(client: Any, operation: str, **arguments: Any) -> Any:
    """Send a request, and return the answer.

    Args:
        client: The boto3 client.
        operation: Name of its method.
        arguments: Of that.

    Raises:
        ForeignAnswerError: The answer lacks what S3 always says.
    """
    with _understood():
        answer = getattr(client, operation)(**arguments)
        try:
            return _checked(operation, answer)
        except ForeignAnswerError:
            if isinstance(answer, dict) and "Body" in answer:
                answer["Body"].close()  # or its connection would be lost to the pool
            raise


def pages(client: Any, operation: str, **arguments: Any) -> Iterator[Any]:
    """Send request after request, and yield the answers; as ``ask``."""
    with _understood():
        for page in client.get_paginator(operation).paginate(**arguments):
            yield _checked(operation, page)


def _checked(operation: str, answer: Any) -> Any:
    said = answer
    for name in _SAYS.get(operation, ()):
        if not isinstance(said, dict) or said.get(name) is None:
            raise ForeignAnswerError(f"the answer to {operation} says no {name}")
        if name in _RESULTS:
            said = said[name]
    return answer


@contextmanager
def _understood() -> Iterator[None]:
    """Turn what boto3 raises over an answer that it cannot read into an error of its own kind."""
    from botocore.exceptions import BotoCoreError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except (ResponseParserError, RecursionError) as error:  # the latter over a redirect that names no region
        raise ForeignAnswerError(type(error).__name__) from error
    except ValueError as error:  # a number or a time that is none
        if isinstance(error, BotoCoreError):
            raise
        raise ForeignAnswerError(type(error).__name__) from error
