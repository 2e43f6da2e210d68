"""Requests that somebody else may send to a store in our name. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["SignedRequest"]


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request that whoever has it may send to the store, for a while.

    Args:
        method: ``PUT``: the body is the content. ``POST``: a form (``multipart/form-data``), its last part the file.
        url: Where to. A permission: it belongs in no log.
        headers: What to send with it, each as it is here, or the store refuses it. Browsers send ``Content-Length`` by
            themselves.
        fields: Texts of the form, all of which come before the file, whose field is ``file``.
    """

    method: Literal["PUT", "POST"]
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
