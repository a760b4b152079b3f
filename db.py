"""The one SQLite file: who may write, who may read, and how its schema grows.

Writing and reading are functions that take a `Session` and run whole: `await db.write(work, ...)`,
`await db.read(work, ...)`. A write is one `BEGIN IMMEDIATE` transaction on the single writing
connection, which lives on a thread of its own. A caller that is cancelled stops waiting, but the
transaction is not cut in two and its connection stays sound; and a turn's several statements cost
one hop between threads, not one each. Readers are aiosqlite connections that cannot write.
"""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from filelock import FileLock, Timeout
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    LargeBinary,
    StaticPool,
    cast,
    create_engine,
    event,
    func,
    inspect,
)
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel import Session, SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

import index
import seeds
from errors import Conflict, NotFound, StorageError, behind, disk_full
from fields import now
from models import Category, Json, Project
from statements import fetch

P = ParamSpec("P")
T = TypeVar("T")
Row = TypeVar("Row", bound=SQLModel)

READERS = 4
BUSY_TIMEOUT_MS = 10_000

# What brings a file from version N to N + 1, statement by statement. A new file is made from the
# models and stamped with the newest version, so a step is written once, when the schema changes.
WHAT_TURNS_COST = (
    "ALTER TABLE conversation ADD COLUMN deleted_external_ids JSON",
    "ALTER TABLE message ADD COLUMN points INTEGER",
    "ALTER TABLE plan_draft ADD COLUMN cost FLOAT",
    "ALTER TABLE plan_draft ADD COLUMN points INTEGER",
    "CREATE INDEX ix_message_turn ON message (source, created_at) WHERE provider IS NOT NULL",
    """
    CREATE TABLE poe_points (
        id INTEGER NOT NULL PRIMARY KEY,
        query_id VARCHAR NOT NULL UNIQUE,
        bot_name VARCHAR NOT NULL,
        usage_type VARCHAR NOT NULL,
        cost_points INTEGER NOT NULL,
        cost_usd FLOAT,
        matched BOOLEAN,
        created_at VARCHAR NOT NULL
    )
    """,
)
STEPS = [WHAT_TURNS_COST]
VERSION = len(STEPS) + 1


class StartError(Exception):
    """The database cannot be opened; the message is one sentence for the person who starts it."""


class Database:
    """One file, one writing connection, a few reading ones. `open` first; `close` is idempotent."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._lock = FileLock(f"{self.path}.lock", mode=0o600)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database-writer")
        self._writer: Engine | None = None
        self._readers: AsyncEngine | None = None

    def open(self) -> None:
        """Take the file, bring its schema up to date, connect; idempotent.

        StartError says in one sentence why it cannot.
        """
        if self._writer is not None:
            return
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise StartError(f"{self.path} is in use by another running service") from None
        except OSError as error:
            raise StartError(f"{self.path} cannot be opened: {error.strerror}") from None
        try:
            self._writer = _open_writer(self.path)
        except BaseException:
            self._lock.release()
            raise
        self._connect_readers()

    def open_to_read(self) -> None:
        """Take part in reading only, also beside a running service. StartError as for `open`."""
        if not self.path.is_file():
            raise StartError(f"{self.path} does not exist")
        with closing(sqlite3.connect(self.path)) as file:
            try:
                (version,) = file.execute("PRAGMA user_version").fetchone()
            except sqlite3.Error as error:
                raise StartError(f"{self.path} cannot be used: {error}") from None
        if version != VERSION:
            raise StartError(f"{self.path} is of another version: start the service on it once")
        self._connect_readers()

    def _connect_readers(self) -> None:
        self._readers = create_async_engine(
            URL.create("sqlite+aiosqlite", database=str(self.path)),
            pool_size=READERS,
            max_overflow=0,
            hide_parameters=True,
        )
        _configure(self._readers.sync_engine, "PRAGMA query_only=ON", begin="BEGIN")

    async def close(self) -> None:
        """Wait for what is being written, then let go of the file."""
        readers, self._readers = self._readers, None
        if readers:
            await readers.dispose()
        if writer := self._writer:
            await asyncio.get_running_loop().run_in_executor(self._thread, writer.dispose)
            self._writer = None
        self._thread.shutdown()
        self._lock.release()

    async def write(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` in one transaction: all of it is committed when this returns, or none."""

        def transaction() -> T:
            assert self._writer is not None, "the database is open"
            session = Session(self._writer, expire_on_commit=False)
            with _storage_errors(), session, session.begin():
                return work(session, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)

    async def read(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` on one snapshot of the file; it sees every write that has returned.

        What `work` does between its statements, it does on the event loop: keep that short.
        """
        assert self._readers is not None, "the database is open"
        with _storage_errors():
            async with AsyncSession(self._readers, expire_on_commit=False) as session:
                # sqlmodel's own Session is handed over; the annotation forgets that.
                return await session.run_sync(work, *args, **kwargs)  # type: ignore[arg-type]


def require(session: Session, table: type[Row], key: Any, what: str | None = None) -> Row:
    """The row with this primary key, or NotFound."""
    row = session.get(table, key)
    if row is None:
        raise NotFound(what or table.__name__)
    return row


def require_free(session: Session, table: type[Project] | type[Category], name: str) -> None:
    """Conflict if a row of this table has this name already."""
    if session.exec(select(table.id).where(table.name == name)).first() is not None:
        raise Conflict(f"A {table.__name__.lower()} named {name} exists already")


def ensure_project(session: Session, project_id: int) -> None:
    """Projects are born by reference: a number not seen before becomes `Project <number>`."""
    if project_id == 0 or session.get(Project, project_id) is not None:
        return
    name = f"Project {project_id}"
    taken = session.exec(select(Project.id).where(Project.name == name)).first()
    # Somebody may have given another project that very name.
    session.add(Project(id=project_id, name=name if taken is None else f"{name} ({now()})"))
    session.flush()


def public_json(
    shape: type[SQLModel], table: type[SQLModel], **others: ColumnElement[Any]
) -> ColumnElement[bytes]:
    """One JSON object a row, written by SQLite: the fields of `shape`, which are columns of `table`
    but for those that `others` gives. Lists are made of these, at a sixth of the cost of objects;
    as bytes, for as texts they would be decoded only to be encoded again.
    """
    pairs: list[Any] = []
    for name in shape.model_fields:
        value = others[name] if name in others else inspect(table).columns[name]
        pairs += [name, func.json(value) if isinstance(value.type, Json) else value]
    return cast(func.json_object(*pairs), LargeBinary)


def _open_writer(path: Path) -> Engine:
    """Make or upgrade the file; only then is a connection kept."""
    try:
        # SQLite would create it readable for everyone; it is somebody's diary.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        engine = create_engine(
            URL.create("sqlite", database=str(path)),
            poolclass=StaticPool,
            connect_args={"check_same_thread": False},
            hide_parameters=True,
        )
        _configure(engine, "PRAGMA journal_size_limit=67108864", begin="BEGIN IMMEDIATE")
        event.listen(engine, "connect", lambda connection, _: index.register(connection))
        _upgrade(engine, path)
    except OSError as error:
        raise StartError(f"{path} cannot be opened: {error.strerror}") from None
    except DatabaseError as error:
        raise StartError(f"{path} cannot be used: {error.orig}") from None
    return engine


def _configure(engine: Engine, *pragmas: str, begin: str) -> None:
    """Pragmas for every new connection; transactions begin as `begin` says, never implicitly."""

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        # The wait comes first: changing the journal mode may itself meet a lock.
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA temp_store=MEMORY")
        for pragma in pragmas:
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        fetch(connection, begin)


def _upgrade(engine: Engine, path: Path) -> None:
    with engine.connect() as connection:
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
    if version > VERSION:
        raise StartError(f"{path} was written by a newer version of this program")
    if version == 0 and tables:
        raise StartError(f"{path} is the database of another program")
    if version == 0:
        with engine.begin() as connection:
            SQLModel.metadata.create_all(connection)
            index.create(connection)
            seeds.plant(connection)
            connection.exec_driver_sql(f"PRAGMA user_version={VERSION}")
    elif version < VERSION:
        _keep_copy(path, version)
    for number, step in enumerate(STEPS[version - 1 :] if version else [], version):
        with engine.begin() as connection:
            for statement in step:
                connection.exec_driver_sql(statement)
            connection.exec_driver_sql(f"PRAGMA user_version={number + 1}")


def _keep_copy(path: Path, version: int) -> None:
    """A copy of the file as the older version left it, beside it."""
    copy = path.with_name(f"{path.name}.v{version}.backup")
    if copy.exists():
        return
    source = sqlite3.connect(path)
    target = sqlite3.connect(part := f"{copy}.part")
    os.chmod(part, 0o600)
    source.backup(target)
    target.close()
    source.close()
    shutil.move(part, copy)


@contextmanager
def _storage_errors() -> Iterator[None]:
    """A full disk, and a file that cannot be used, are told as such."""
    try:
        yield
    except (DatabaseError, sqlite3.DatabaseError) as error:
        # A full disk may end the whole transaction: then the error is that a savepoint is gone.
        codes = {getattr(each, "sqlite_errorcode", 0) & 0xFF for each in behind(error)}
        if sqlite3.SQLITE_FULL in codes:
            raise disk_full() from error
        if codes & {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise StorageError("The database file is held by another program") from error
        if codes & {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}:
            raise StorageError(
                "The database file cannot be written: check its permissions and its disk"
            ) from error
        if codes & {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise StorageError("The database file is damaged: restore a backup") from error
        raise
