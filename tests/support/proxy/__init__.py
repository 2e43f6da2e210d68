"""A proxy that makes the network misbehave, between us and S3 or PostgreSQL.

``HttpProxy`` understands requests and answers, ``PostgresProxy`` statements and theirs. A fault is a function that is
handed one exchange, or round, and decides what each side gets to see of it; ``http_faults`` and ``postgres_faults`` are
the tables.
"""

from __future__ import annotations

from .http import Answer, Exchange, HttpProxy, Request
from .postgres import PostgresProxy, Round

__all__ = ["Answer", "Exchange", "HttpProxy", "PostgresProxy", "Request", "Round"]
