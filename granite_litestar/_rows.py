"""Finding the row that a route's path names, in a session of its own, and giving it another file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from uuid import UUID

import anyio.to_thread
import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import UnmappedColumnError

from granite_core import BackendUnavailableError, ConfigurationError, StoredObjectRef
from granite_core.integrations.sqlalchemy import StoredObjectRefListType, is_file_column

if TYPE_CHECKING:
    from litestar import Litestar
    from litestar.connection import ASGIConnection
    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import InstrumentedAttribute, Mapper, Session
    from sqlalchemy.sql.base import ExecutableOption

__all__ = [
    "AnySession",
    "Authorize",
    "FoundRow",
    "RowLookup",
    "check_access",
    "path_parameters",
    "read_one",
    "session_of",
]

_PARAMETER: Final = re.compile(r"\{([^{}:]+)(?::([^{}]+))?\}")
_TYPES: Final[dict[str, type]] = {
    "str": str, "int": int, "float": float, "uuid": UUID, "decimal": Decimal, "date": date, "datetime": datetime,
    "timedelta": timedelta, "path": Path,
}  # fmt: skip

AnySession: TypeAlias = "AbstractAsyncContextManager[AsyncSession] | AbstractContextManager[Session]"
Authorize: TypeAlias = "Callable[[Any, ASGIConnection[Any, Any, Any, Any]], object | Awaitable[object]]"


def path_parameters(path: str) -> dict[str, type]:
    """Names of a path's parameters, and the types Litestar makes of them."""
    return {name.strip(): _TYPES.get((kind or "str").strip(), object) for name, kind in _PARAMETER.findall(path)}


class FoundRow(msgspec.Struct, frozen=True):
    """What a look-up brings home from its session.

    Attributes:
        content: What the column holds.
        allowed: What ``authorize`` answered, or True without one.
    """

    content: StoredObjectRef | Sequence[StoredObjectRef] | None
    allowed: bool


class RowLookup:
    """Reads one row, and lets ``authorize`` judge it while its session is still open.

    Args:
        field: The model's attribute that holds the file or files.
        parameters: Names of path parameters, and the types they come as.
        options: Loader options for what ``authorize`` looks at.

    Raises:
        ConfigurationError: The field holds no files, or the parameters do not name one row.
    """

    def __init__(
        self,
        field: InstrumentedAttribute[Any],
        parameters: Mapping[str, type],
        options: Sequence[ExecutableOption] = (),
    ) -> None:
        mapper: Mapper[Any] = sa.inspect(field.class_)
        self.model: type[Any] = mapper.class_
        self.key: str = field.key
        if self.key not in mapper.columns or not is_file_column(mapper.columns[self.key]):
            raise ConfigurationError(f"{field} is no file field: declare it with file_field() or files_field()")
        self.holds_many = isinstance(mapper.columns[self.key].type, StoredObjectRefListType)
        _check_parameters(mapper, parameters)
        self._field = field
        self._names = tuple(parameters)
        self._options = tuple(options)

    async def find(
        self,
        opened: AnySession,
        values: Mapping[str, Any],
        authorize: Authorize | None,
        connection: ASGIConnection[Any, Any, Any, Any],
    ) -> FoundRow | None:
        """Read the row in a session that is closed, and its connection given back, on return.

        A synchronous session works in a thread, an asynchronous one in SQLAlchemy's greenlet: a synchronous
        ``authorize`` can follow lazy attributes in both.

        Args:
            opened: Context manager that opens the session.
            values: Values of the path parameters.
            authorize: Judge of the row, sync or async.
            connection: What ``authorize`` judges by.

        Returns:
            What was found, or ``None`` where there is no such row.
        """
        read = partial(self._read, values=values, authorize=authorize, connection=connection)
        try:
            if isinstance(opened, AbstractAsyncContextManager):
                async with opened as async_session:
                    found = await async_session.run_sync(read)
                    return await _settled(found)
            return await anyio.to_thread.run_sync(_read_in_thread, opened, read)
        except (OverflowError, DBAPIError) as error:
            if isinstance(error, DBAPIError) and _is_away(error):  # at the end of the session, say
                raise _away("look up") from error
            # A value that the column's type cannot hold is the name of no row.
            if type(error) in (OverflowError, DataError, DBAPIError):
                return None
            raise

    async def assign(
        self,
        opened: AnySession,
        values: Mapping[str, Any],
        ref: StoredObjectRef,
        check: Callable[[StoredObjectRef | None], None],
    ) -> FoundRow | None:
        """Give the row another file, and commit.

        Args:
            opened: Context manager that opens the session.
            values: Values of the path parameters.
            ref: The file.
            check: Called with what the locked row holds; what it raises ends the transaction.

        Returns:
            What the row held before, or ``None`` where there is no such row any more.
        """
        write = partial(self._write, values=values, ref=ref, check=check)
        with _reached("write"):
            if isinstance(opened, AbstractAsyncContextManager):
                async with opened as async_session:
                    return await async_session.run_sync(write)
            return await anyio.to_thread.run_sync(_write_in_thread, opened, write)

    def _write(
        self,
        session: Session,
        values: Mapping[str, Any],
        ref: StoredObjectRef,
        check: Callable[[StoredObjectRef | None], None],
    ) -> FoundRow | None:
        matches = [getattr(self.model, name) == values[name] for name in self._names]
        statement = sa.select(self.model).where(*matches).with_for_update(of=self.model)
        row = session.scalars(statement).unique().one_or_none()
        if row is None:
            return None
        before = getattr(row, self.key)
        check(before)
        setattr(row, self.key, ref)
        session.commit()
        return FoundRow(before, allowed=True)

    def _read(
        self,
        session: Session,
        values: Mapping[str, Any],
        authorize: Authorize | None,
        connection: ASGIConnection[Any, Any, Any, Any],
    ) -> tuple[Any, object] | None:
        matches = [getattr(self.model, name) == values[name] for name in self._names]
        if authorize is None:
            with _reached("look up"):
                only = session.execute(sa.select(self._field).where(*matches)).one_or_none()
            return None if only is None else (only[0], True)
        statement = sa.select(self.model).where(*matches).options(*self._options)
        with _reached("look up"):
            row = session.scalars(statement).unique().one_or_none()
        return None if row is None else (getattr(row, self.key), authorize(row, connection))


async def read_one(opened: AnySession, query: Select[Any]) -> Any:
    """Run a query in a session that is closed on return, and return its one value, or None where it finds no row."""
    with _reached("look up"):
        if isinstance(opened, AbstractAsyncContextManager):
            async with opened as async_session:
                return (await async_session.execute(query)).scalar_one_or_none()
        return await anyio.to_thread.run_sync(_read_one_in_thread, opened, query)


@contextmanager
def _reached(operation: str) -> Iterator[None]:
    """Name the error of a database that is away: asyncpg's may be SQLAlchemy's plainest one, or Python's own.

    Raises:
        BackendUnavailableError: The connection was lost, or none could be made, or none was free.
    """
    try:
        yield
    except (DBAPIError, PoolTimeoutError, OSError) as error:
        if isinstance(error, DBAPIError) and not _is_away(error):
            raise
        raise _away(operation) from error


def _is_away(error: DBAPIError) -> bool:
    """Whether the connection was lost, or there was none to run a statement on."""
    unconnected = error.statement is None and isinstance(error, (OperationalError, InterfaceError))
    return error.connection_invalidated or unconnected


def _away(operation: str) -> BackendUnavailableError:
    return BackendUnavailableError("the database is away", operation=operation, backend="database")


async def _settled(found: tuple[Any, object] | None) -> FoundRow | None:
    if found is None:
        return None
    content, verdict = found
    if inspect.isawaitable(verdict):
        verdict = await verdict
    return FoundRow(content, bool(verdict))


def _read_in_thread(
    opened: AbstractContextManager[Session], read: Callable[[Session], tuple[Any, object] | None]
) -> FoundRow | None:
    import anyio.from_thread  # of routes with a synchronous engine: in a thread, not on the event loop

    with opened as session:
        found = read(session)
        return anyio.from_thread.run(_settled, found)


def _read_one_in_thread(opened: AbstractContextManager[Session], query: Select[Any]) -> Any:
    with opened as session:
        return session.execute(query).scalar_one_or_none()


def _write_in_thread(
    opened: AbstractContextManager[Session], write: Callable[[Session], FoundRow | None]
) -> FoundRow | None:
    with opened as session:
        return write(session)


def _check_parameters(mapper: Mapper[Any], parameters: Mapping[str, type]) -> None:
    """Refuse at start-up what would otherwise be an error, or another user's file, at the first request."""
    model = mapper.class_.__name__
    for name, kind in parameters.items():
        column = mapper.columns.get(name)
        if not isinstance(column, sa.Column):
            raise ConfigurationError(f"{model} has no column {name!r}: path parameters name columns of the model")
        try:
            held = column.type.python_type
        except NotImplementedError:
            held = kind
        if not (issubclass(kind, held) or issubclass(held, kind)):
            raise ConfigurationError(f"{model}.{name} holds {held.__name__}, its path parameter is {kind.__name__}")
    if not any(names and names <= parameters.keys() for names in _unique_names(mapper)):
        needed = ", ".join(sorted(_names(mapper, mapper.primary_key)))
        raise ConfigurationError(
            f"the path must name one row of {model}: by its primary key ({needed}) or by a unique column"
        )


def _unique_names(mapper: Mapper[Any]) -> Iterator[set[str]]:
    """Yield the sets of attributes of which the database holds each combination once."""
    yield _names(mapper, mapper.primary_key)
    yield from (_names(mapper, [column]) for column in mapper.columns if column.unique)
    for table in mapper.tables:
        if not isinstance(table, sa.Table):
            continue
        for constraint in table.constraints:
            if isinstance(constraint, sa.UniqueConstraint):
                yield _names(mapper, constraint.columns)
        for index in table.indexes:
            partial_index = any(name.endswith("_where") for name in index.dialect_kwargs)
            if index.unique and not partial_index:
                yield _names(mapper, index.columns)


def _names(mapper: Mapper[Any], columns: Iterable[sa.ColumnElement[Any]]) -> set[str]:
    """Names of the attributes of columns; one that is not mapped gets a name that no parameter can have."""
    names = set()
    for column in columns:
        try:
            names.add(mapper.get_property_by_column(column).key)
        except UnmappedColumnError:
            names.add(f"({column})")
    return names


def session_of(app: Litestar, model: Any, session_key: str | None) -> AnySession:
    """Open a session of advanced-alchemy's plugin for a model, or a table.

    Args:
        app: The running application; the plugins' order in it does not matter.
        model: Chooses among several configurations, by its metadata.
        session_key: The ``session_dependency_key`` of the configuration to use, where that does not decide.

    Raises:
        ConfigurationError: There is no such plugin or configuration.
    """
    try:
        from advanced_alchemy.extensions.litestar import SQLAlchemyInitPlugin

        configs = app.plugins.get(SQLAlchemyInitPlugin).config
    except (ImportError, KeyError):
        raise ConfigurationError(
            "a route reads its row in a session of SQLAlchemyPlugin: add that to the application's plugins, "
            "or give the route `session=`"
        ) from None
    if session_key is not None:
        configs = [each for each in configs if each.session_dependency_key == session_key]
    elif len(configs) > 1:
        configs = [each for each in configs if each.metadata is model.metadata] or configs
    if not configs:
        raise ConfigurationError(f"no configuration of SQLAlchemyPlugin has session_dependency_key {session_key!r}")
    return cast("AnySession", configs[0].get_session())


def check_access(
    path: str, guards: Sequence[object], authorize: object, *, public: bool, denied: int, deed: str
) -> None:
    """Refuse a route that does not say who may use it, or says two things.

    Args:
        path: The route's path, for the message.
        guards: The route's guards.
        authorize: The route's judge of rows, or None.
        public: Whether it is open to all.
        denied: What those who are denied are told.
        deed: What the route lets people do, for the message.

    Raises:
        ConfigurationError: The route's settings cannot be meant.
    """
    limited = bool(guards) or authorize is not None
    if public and limited:
        raise ConfigurationError(f"{path}: public=True contradicts guards and authorize; remove one or the other")
    if not public and not limited:
        raise ConfigurationError(
            f"{path}: nothing says who may {deed} these files; give guards=[...], authorize=... or public=True"
        )
    if denied not in (403, 404):
        raise ConfigurationError(f"{path}: denied must be 403 or 404", value=denied)
