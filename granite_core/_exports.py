"""Exports of packages that are imported when they are asked for (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module

__all__ = ["exports_when_asked_for"]


def exports_when_asked_for(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__``, which export names whose modules not everybody needs.

    Args:
        package: Its ``__name__``.
        homes: The module of each name.
    """

    def get(name: str) -> object:
        if (home := homes.get(name)) is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(import_module(home), name)
        except ModuleNotFoundError as error:
            if error.name != "sqlalchemy":
                raise
            raise ImportError(f'{package}.{name} needs SQLAlchemy: pip install "SQLAlchemy>=2.0.41"') from error

    def names() -> list[str]:
        return [*vars(sys.modules[package]), *homes]

    return get, names
