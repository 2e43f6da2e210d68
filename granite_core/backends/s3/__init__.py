"""Objects in a bucket of S3, or of a store that speaks its language, through boto3."""

from __future__ import annotations

from granite_core.backends._budget import BufferBudget, buffer_budget
from granite_core.backends.s3.backend import S3StorageBackend

__all__ = ["BufferBudget", "S3StorageBackend", "buffer_budget"]
