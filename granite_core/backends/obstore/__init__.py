"""Objects in whatever obstore reaches: S3 and what speaks its language, Google Cloud Storage, Azure."""

from __future__ import annotations

from granite_core.backends.obstore.backend import ObstoreStorageBackend

__all__ = ["ObstoreStorageBackend"]
