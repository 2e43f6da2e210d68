"""The SQL by which refs are found, in the words of each database."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Dialect,
    FromClause,
    Integer,
    LargeBinary,
    Select,
    SmallInteger,
    String,
    Text,
    bindparam,
    case,
    cast,
    func,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from granite_core.integrations.sqlalchemy.types import StoredObjectRefListType

__all__ = [
    "WANTED",
    "among",
    "at_once",
    "element_in",
    "held_between",
    "location_in",
    "one_that_holds",
    "packed",
    "ref_location",
    "takes_plainly",
    "wanted_in",
]

WANTED: Final = "wanted"
"""Name of the parameter that ``packed`` gives the value of."""

_PACKING: Final = ("postgresql", "sqlite")
_PLAIN: Final[Mapping[type, type]] = {
    SmallInteger: Integer,
    Integer: Integer,
    BigInteger: Integer,
    String: String,
    Text: String,
}

_ARROWS_SINCE: Final = (3, 38, 0)


class ref_location(FunctionElement[str]):  # noqa: N801 - named as a SQL function is
    """The location of the ref in a file column; written alike in the index and in every look-up."""

    type = String()
    inherit_cache = True
    name = "granite_ref_location"


@compiles(ref_location)
def _location_default(element: ref_location, compiler: Any, **kw: Any) -> str:
    return f"JSON_VALUE({compiler.process(element.clauses, **kw)}, '$.location')"


@compiles(ref_location, "postgresql")
def _location_postgresql(element: ref_location, compiler: Any, **kw: Any) -> str:
    return f"({compiler.process(element.clauses, **kw)} ->> 'location')"


@compiles(ref_location, "sqlite")
def _location_sqlite(element: ref_location, compiler: Any, **kw: Any) -> str:
    """As on PostgreSQL, where SQLite can: a migration that was made for one of them then serves both."""
    version = getattr(compiler.dialect.dbapi, "sqlite_version_info", _ARROWS_SINCE)
    if version >= _ARROWS_SINCE:
        return _location_postgresql(element, compiler, **kw)
    return f"json_extract({compiler.process(element.clauses, **kw)}, '$.location')"


@compiles(ref_location, "mysql", "mariadb")
def _location_mysql(element: ref_location, compiler: Any, **kw: Any) -> str:
    return f"JSON_UNQUOTE(JSON_EXTRACT({compiler.process(element.clauses, **kw)}, '$.location'))"


def location_in(column: Column[Any], dialect: str) -> Any:
    """Return the location of each ref in a file column; None where the database cannot look into an array."""
    if not isinstance(column.type, StoredObjectRefListType):
        return ref_location(column)
    element = element_in(column, dialect)
    if element is None:
        return None
    if dialect == "postgresql":
        return element.op("->>", return_type=String())("location")
    return func.json_extract(element, "$.location", type_=String)


def element_in(column: Column[Any], dialect: str) -> Any:
    """Return each ref of a list column as JSON, joined to its row; None where the database cannot look into an array.

    A JSON null or a stray scalar in the column is no array: taken for an empty one, it hides no row.
    """
    if dialect == "postgresql":
        data = cast(column, JSONB)  # for a table whose migration said JSON
        array = case((func.jsonb_typeof(data) == "array", data), else_=func.jsonb_build_array())
        return func.jsonb_array_elements(array, type_=String).table_valued("value", joins_implicitly=True).c.value
    if dialect == "sqlite":
        element = func.json_each(column).table_valued("value", "type", joins_implicitly=True).c
        return case((element.type == "object", element.value), else_="{}")  # a bare text is no JSON
    return None


# -- many locations in one parameter -----------------------------------------------------------------------------------


def wanted_in(dialect: str) -> FromClause | None:
    """Return locations as rows with one column, ``location``; None where the database takes no list as one value.

    One parameter of one statement, whatever their number: neither SQLAlchemy nor the database reads it anew.
    """
    if dialect == "postgresql":
        array = cast(bindparam(WANTED, type_=Text()), ARRAY(Text))
        return func.unnest(array).table_valued("location", name=WANTED).render_derived()
    if dialect == "sqlite":
        value = func.json_each(bindparam(WANTED, type_=Text())).table_valued("value").c.value
        return select(value.label("location")).subquery(WANTED)
    return None


def among(column: ColumnElement[Any], dialect: str) -> ColumnElement[bool]:
    """Compare with many values, texts or numbers, in one parameter.

    As rows, on PostgreSQL too: an array that is no constant is gone through from front to back for each row.
    """
    if dialect == "postgresql":
        return column.in_(select(func.unnest(cast(bindparam(WANTED, type_=Text()), ARRAY(column.type)))))
    if dialect == "sqlite":
        return column.in_(select(func.json_each(bindparam(WANTED, type_=Text())).table_valued("value").c.value))
    return column.in_(bindparam(WANTED, expanding=True))


def takes_plainly(column: ColumnElement[Any], dialect: Dialect) -> bool:
    """Tell whether ``packed`` takes a column's values as they are: plain numbers or texts, there too."""
    kind = type(column.type)
    return dialect.name in _PACKING and kind in _PLAIN and isinstance(column.type.dialect_impl(dialect), _PLAIN[kind])


def at_once(dialect: str) -> int:
    """Return how many values go into the parameter: databases limit the length of an ``IN``."""
    return 10_000 if dialect in _PACKING else 500


def packed(dialect: str, values: Collection[str] | Collection[int]) -> object:
    """Return the value of the parameter."""
    if dialect == "sqlite":
        return msgspec.json.encode([*values]).decode()
    if dialect != "postgresql":
        return [*values]
    text = '","'.join(map(str, values))
    if "\\" in text or text.count('"') != 2 * (len(values) - 1):
        text = '","'.join(str(each).replace("\\", "\\\\").replace('"', '\\"') for each in values)
    return f'{{"{text}"}}' if values else "{}"  # PostgreSQL, "Array Input and Output Syntax"


def one_that_holds(column: Column[Any], location: Any, dialect: str) -> Select[Any]:
    """Select a row that holds a location in a column, by the column's index.

    Asked for each location by itself. Joined, PostgreSQL would compare everything with everything where it has no
    statistics of the index, as it has none from its making until the next ANALYZE; and it joins what is in EXISTS,
    unless there is an OFFSET.
    """
    query: Select[Any] = select(literal(1)).select_from(column.table)
    if isinstance(column.type, StoredObjectRefListType):
        ref = func.jsonb_build_array(func.jsonb_build_object("location", location), type_=JSONB)
        query = query.where(cast(column, JSONB).contains(ref))
    else:
        query = query.where(ref_location(column) == location)
    return query.limit(1).offset(0) if dialect == "postgresql" else query


def held_between(column: Column[Any], dialect: str) -> Select[Any] | None:
    """Select what an indexed column of single refs holds from ``first`` to ``last``, at most ``most``, as one value.

    A JSON array as bytes. None where the database gains nothing by it, or the order of an index is a language's.
    """
    if dialect != "sqlite":
        return None
    location = ref_location(column)
    wanted = bindparam("first", type_=Text()), bindparam("last", type_=Text())
    found = select(location.label("location")).where(location.between(*wanted)).order_by(location)
    rows = found.limit(bindparam("most", type_=Integer())).subquery()
    return select(cast(func.json_group_array(rows.c.location), LargeBinary))
