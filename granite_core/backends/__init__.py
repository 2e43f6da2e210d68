"""Where bytes live: the contract and the backends that keep it, one module each."""

from __future__ import annotations

from granite_core.backends.url import backend_from_url

__all__ = ["backend_from_url"]
