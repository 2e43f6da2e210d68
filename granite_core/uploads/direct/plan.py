"""How a client is to send its bytes to the store: decided here, carried out elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any, Final

import msgspec

from granite_core.backends.base import Capability
from granite_core.errors import ConfigurationError, ContentTooLargeError
from granite_core.keys import DIRECT

__all__ = ["DirectPlan", "DirectSettings", "DirectWay", "plan_direct"]

MIB: Final = 1024 * 1024
MIN_PART_BYTES: Final = 5 * MIB  # S3, "Amazon S3 multipart upload limits"
MAX_PART_BYTES: Final = 5 * 1024 * MIB
MAX_PARTS: Final = 1000
"""Of one upload; S3 ends at 10,000. Where parts are objects of their own, each is a key that the session names."""


class DirectWay(Enum):
    """How the bytes are sent."""

    PUT = "put"
    """As the body of one request."""
    POST = "post"
    """As the file of a form."""
    PARTS = "parts"
    """As the bodies of several requests, in any order."""


@dataclass(frozen=True, slots=True)
class DirectSettings:
    """How clients send their bytes.

    Args:
        parts_above: Files larger than this many bytes are sent in parts.
        part_size: Length of a part in bytes, at least 5 MiB; longer where there would be more than 1,000 of them.
        requests_expire_in: For how long a signed request is good. It may be asked for again.
        page: How many requests for parts one answer tells.

    Raises:
        ConfigurationError: A value that cannot work.
    """

    parts_above: int = 64 * MIB
    part_size: int = 16 * MIB
    requests_expire_in: timedelta = timedelta(hours=1)
    page: int = 100

    def __post_init__(self) -> None:
        if not MIN_PART_BYTES <= self.part_size <= MAX_PART_BYTES:
            raise ConfigurationError(
                "part_size must be between 5 MiB and 5 GiB", field="part_size", value=self.part_size
            )
        if self.requests_expire_in < timedelta(seconds=1):
            raise ConfigurationError(
                "requests_expire_in must be a second at least",
                field="requests_expire_in",
                value=self.requests_expire_in,
            )
        for name, value in (("parts_above", self.parts_above), ("page", self.page)):
            if value < 1:
                raise ConfigurationError(f"{name} must be 1 at least", field=name, value=value)


class DirectPlan(msgspec.Struct, frozen=True):
    """How one upload's bytes come.

    Args:
        way: In which requests.
        native: Whether they go to the store itself; otherwise to the application.
        key: Where they are written: a reserved key, which no row will name.
        size: Their number; None where that is not known.
        limit: How many there may be.
        part_size: Length of a part in bytes; 0 where there are none.
        count: How many parts there are; 0 where there are none.
    """

    way: DirectWay
    native: bool
    key: str
    size: int | None
    limit: int
    part_size: int = 0
    count: int = 0

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that may be written; they go with the session."""
        if self.native or not self.count:
            return (self.key,)
        return tuple(self.part_key(number) for number in range(1, self.count + 1))

    def part_key(self, number: int) -> str:
        """Return the key of a part that is an object of its own."""
        return f"{self.key}.{number}"

    def length_of(self, number: int) -> int:
        """Return the length in bytes of a part."""
        return min(self.part_size, self.limit - (number - 1) * self.part_size)

    def to_details(self) -> dict[str, Any]:
        """Return what a session remembers of it."""
        return {
            "way": self.way.value,
            "native": self.native,
            "key": self.key,
            "size": self.size,
            "limit": self.limit,
            "part_size": self.part_size,
            "count": self.count,
        }

    @classmethod
    def from_details(cls, details: Mapping[str, Any]) -> DirectPlan:
        """Read what a session remembers."""
        return cls(
            DirectWay(details["way"]),
            details["native"],
            details["key"],
            details["size"],
            details["limit"],
            details["part_size"],
            details["count"],
        )


def plan_direct(
    size: int | None,
    unique: str,
    settings: DirectSettings,
    capabilities: Collection[Capability],
    *,
    form: bool,
    max_size: int | None,
    put_limit: int,
) -> DirectPlan:
    """Decide how a client sends its bytes: to the store where that takes them, else to the application.

    Args:
        size: How many bytes there will be; None where that is not known, as of a form.
        unique: The random part of the key.
        settings: The application's.
        capabilities: The store's.
        form: Whether the client is a plain form.
        max_size: The policy's limit in bytes; None for none.
        put_limit: Bytes up to which the store takes one request.

    Raises:
        ConfigurationError: It is no form, and there is no size.
        ContentTooLargeError: A form, or as many parts as there may be, cannot hold it.
    """
    key = f"{DIRECT}{unique}"
    if form:
        if size is not None and size > put_limit:
            raise ContentTooLargeError(
                f"more than {put_limit} bytes cannot be sent by a form", operation="put", limit=put_limit, value=size
            )
        limit = size if size is not None else min(max_size or put_limit, put_limit)
        native = Capability.PRESIGNED_POST in capabilities
        return DirectPlan(DirectWay.POST, native, key, size, limit)
    if size is None:
        raise ConfigurationError("how many bytes will there be? Only a form may leave that open", field="size")
    takes_it = Capability.PRESIGNED_PUT in capabilities and size <= put_limit
    if size <= settings.parts_above or (takes_it and Capability.PRESIGNED_PARTS not in capabilities):
        return DirectPlan(DirectWay.PUT, takes_it, key, size, size)
    length = max(settings.part_size, -(-size // (MAX_PARTS * MIB)) * MIB)
    if length > MAX_PART_BYTES:
        largest = MAX_PARTS * MAX_PART_BYTES
        raise ContentTooLargeError(
            f"more than {largest} bytes cannot be sent in parts", operation="put", limit=largest, value=size
        )
    native = Capability.PRESIGNED_PARTS in capabilities
    return DirectPlan(DirectWay.PARTS, native, key, size, size, length, -(-size // length))
