"""The empty list that a new row begins with: there for who asks for it, and no value of the row until it is changed.

Were it a value from the start, whoever makes an object to say what is to change (``session.merge``, the updates of
repositories) would say that the list is to be emptied.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

from sqlalchemy import Column, event
from sqlalchemy.ext.mutable import MutableList
from sqlalchemy.orm import InstanceState, InstrumentedAttribute

__all__ = ["begin_with_list", "materialize"]


class _FreshList(MutableList[Any]):
    """A list that becomes the value of an attribute when it is changed."""

    _place: tuple[ref[InstanceState[Any]], str] | None = None

    def changed(self) -> None:
        if self._place is None:
            super().changed()
            return
        (owner, key), self._place = self._place, None
        state = owner()
        target = state.obj() if state is not None else None
        if state is not None and target is not None and key not in state.dict:
            setattr(target, key, self)


_fresh: WeakKeyDictionary[InstanceState[Any], dict[str, _FreshList]] = WeakKeyDictionary()


def begin_with_list(attribute: InstrumentedAttribute[Any]) -> None:
    """Let ``row.pages.append(…)`` work before the first flush, and track changes of the list in place."""
    MutableList.associate_with_attribute(attribute)
    event.listen(attribute, "init_scalar", partial(_list_of, attribute.key), retval=True, raw=True, propagate=True)


def materialize(row: InstanceState[Any], key: str, column: Column[Any]) -> None:
    """Make the list a value of a row about to be inserted, where somebody asked for it or the column has no default."""
    if key in row.dict:
        return
    asked_for = _fresh.get(row, {}).pop(key, None)
    if asked_for is not None:
        asked_for._place = None
        setattr(row.obj(), key, asked_for)
    elif column.default is None and column.server_default is None:
        setattr(row.obj(), key, [])


def _list_of(key: str, state: InstanceState[Any], value: object, dict_: dict[str, Any]) -> _FreshList:
    """Answer with the same list each time."""
    lists = _fresh.setdefault(state, {})
    if key not in lists or lists[key]._place is None:
        lists[key] = _FreshList()
        lists[key]._place = ref(state), key
    return lists[key]
