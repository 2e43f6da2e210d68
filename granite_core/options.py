"""What a policy asks of a store beside keeping bytes. A pure value that policies hold and backends read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["NO_OPTIONS", "WriteOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """What a policy asks a store to do with an object, beyond keeping its bytes.

    A store heeds what it has and passes over the rest, so that one policy serves a laptop's disk and S3.

    Args:
        durable: Whether a commit that has returned survives a power cut; None leaves it to the backend.
        metadata: ASCII names and values kept with the object (S3 user metadata).
        tags: Names and values that rules of the store go by (S3 object tags).
        storage_class: The store's name for how the object is kept (S3: ``"STANDARD_IA"``).
        encryption: How the store encrypts it (S3 ``ServerSideEncryption``: ``"AES256"``, ``"aws:kms"``).
        encryption_key: The store's name of the key (S3 ``SSEKMSKeyId``).
        cache_control: ``Cache-Control`` of the store's own answers.
        content_disposition: ``Content-Disposition`` of the store's own answers.
        content_type: Media type of a copy that takes over the bytes alone, and nothing that is kept with its original.
    """

    durable: bool | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    storage_class: str | None = None
    encryption: str | None = None
    encryption_key: str | None = None
    cache_control: str | None = None
    content_disposition: str | None = None
    content_type: str | None = None


NO_OPTIONS: Final = WriteOptions()
"""Nothing asked: the backend's own ways."""
