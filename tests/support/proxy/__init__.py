"""A proxy that makes the network misbehave, between us and S3 or PostgreSQL.

``HttpProxy`` understands requests and answers. A fault is a function that is handed one exchange and decides what each
side gets to see of it; ``http_faults`` is the table.
"""

from __future__ import annotations

from .http import Answer, Exchange, HttpProxy, Request

__all__ = ["Answer", "Exchange", "HttpProxy", "Request"]
