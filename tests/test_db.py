"""The file: one writer, readers that cannot write, and a schema that only goes forward."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

import db
import history
import index
from db import Database, StartError
from errors import StorageError
from models import Category, Conversation, Message, MessageUpdate, Project


def use(path: Path, work: Callable[[Database], Awaitable[None]]) -> None:
    """Open a database, do something with it, close it."""

    async def run() -> None:
        database = Database(path)
        database.open()
        try:
            await work(database)
        finally:
            await database.close()
            await database.close()  # idempotent

    asyncio.run(run())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


def test_a_write_is_all_or_nothing(path: Path) -> None:
    def half(session: Session) -> None:
        session.add(Conversation(id="half"))
        session.flush()
        raise RuntimeError("in the middle")

    async def work(database: Database) -> None:
        with pytest.raises(RuntimeError, match="in the middle"):
            await database.write(half)
        assert await database.read(lambda session: session.get(Conversation, "half")) is None

    use(path, work)


def test_a_commit_that_fails_leaves_the_connection_sound(path: Path) -> None:
    def orphan(session: Session) -> None:
        session.execute(text("PRAGMA defer_foreign_keys=ON"))  # checked by the COMMIT itself
        session.add(Message(conversation_id="none", role="user"))

    async def work(database: Database) -> None:
        with pytest.raises(IntegrityError, match="FOREIGN KEY"):
            await database.write(orphan)
        await database.write(lambda session: session.add(Conversation(id="next")))
        assert await database.read(lambda session: session.exec(select(Message)).all()) == []
        assert await database.read(lambda session: session.get(Conversation, "next"))

    use(path, work)


def test_a_disk_that_is_full_inside_a_savepoint_is_told(path: Path) -> None:
    def fill(session: Session) -> None:
        session.execute(text("PRAGMA max_page_count=1"))  # none beyond those there are
        with session.begin_nested():
            session.add(Project(name="x" * 1_000_000))

    async def work(database: Database) -> None:
        with pytest.raises(StorageError, match="disk is full"):
            await database.write(fill)

    use(path, work)


def test_a_damaged_file_is_told_as_such(path: Path) -> None:
    async def fill(database: Database) -> None:
        await database.write(lambda session: session.add(Project(name="x" * 100_000)))

    async def look(database: Database) -> None:
        for use_it in (database.read, database.write):
            with pytest.raises(StorageError, match="damaged"):
                await use_it(lambda session: session.exec(select(Project)).all())

    use(path, fill)
    size = path.stat().st_size
    with path.open("r+b") as file:  # what begins the file is left as it is
        file.seek(size // 2)
        file.write(b"\xff" * (size - size // 2))
    use(path, look)


def test_a_reader_cannot_write(path: Path) -> None:
    async def work(database: Database) -> None:
        with pytest.raises(StorageError, match="cannot be written"):
            await database.read(lambda session: session.execute(text("DELETE FROM project")))

    use(path, work)


def test_a_hundred_writers_at_once_lose_nothing(path: Path) -> None:
    def bump(session: Session) -> None:
        project = db.require(session, Project, 1)
        project.name = str(int(project.name) + 1)

    async def work(database: Database) -> None:
        await database.write(lambda session: session.add(Project(id=1, name="0")))
        await asyncio.gather(*(database.write(bump) for _ in range(100)))
        counted = await database.read(lambda session: db.require(session, Project, 1))
        assert counted.name == "100"

    use(path, work)


def test_a_cancelled_writer_leaves_the_connection_sound(path: Path) -> None:
    def add(session: Session, name: str) -> None:
        session.add(Project(name=name))

    async def work(database: Database) -> None:
        for number in range(20):
            writing = asyncio.ensure_future(database.write(add, f"cancelled {number}"))
            await asyncio.sleep(0)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            await database.write(add, f"whole {number}")
        names = await database.read(lambda session: session.exec(select(Project.name)).all())
        assert {name for name in names if name.startswith("whole")} == {
            f"whole {number}" for number in range(20)
        }

    use(path, work)


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("foreign_keys", 1),
        ("busy_timeout", db.BUSY_TIMEOUT_MS),
        ("user_version", db.VERSION),
    ],
)
def test_the_writer_is_configured_for_safety(path: Path, pragma: str, value: object) -> None:
    async def work(database: Database) -> None:
        query = text(f"PRAGMA {pragma}")
        assert await database.write(lambda session: session.execute(query).scalar()) == value

    use(path, work)


def test_built_in_categories_are_planted_once(path: Path) -> None:
    async def rename(database: Database) -> None:
        await database.write(lambda session: setattr(db.require(session, Category, 1), "name", "x"))

    async def look(database: Database) -> None:
        names = await database.read(lambda session: session.exec(select(Category.name)).all())
        assert set(names) == {"x", "开发计划", "测试计划", "整改计划", "知识库"}

    use(path, rename)
    use(path, look)


OLD = (Path(__file__).parent / "version_1.sql").read_text()


@pytest.fixture
def old(path: Path) -> Path:
    """A file that the first version made."""
    with closing(sqlite3.connect(path)) as file:
        index.register(file)
        file.executescript(OLD)
    return path


def schema(path: Path) -> dict[str, Any]:
    """All that a file's schema says, however it is worded and in whatever order."""
    with closing(sqlite3.connect(path)) as file:
        described: dict[str, Any] = {}
        for kind, name, sql in file.execute("SELECT type, name, sql FROM sqlite_master"):
            described[f"{kind} {name}"] = " ".join((sql or "").split())
            if kind == "table" and "VIRTUAL" not in sql:
                pragmas = ("table_xinfo", "foreign_key_list", "index_list")
                rows = (row[1:] for p in pragmas for row in file.execute(f"PRAGMA {p}({name})"))
                described[f"{kind} {name}"] = sorted(rows, key=repr)
            if kind == "index":
                columns = file.execute(f"PRAGMA index_xinfo({name})")
                described[f"columns of {name}"] = [(place, *how) for place, _, *how in columns]
        return described


def rows(path: Path) -> dict[str, Any]:
    tables = ("project", "conversation", "message", "plan_category", "plan_document", "plan_draft")
    with closing(sqlite3.connect(path)) as file:
        return {table: [*file.execute(f"SELECT * FROM {table}")] for table in tables}


def test_an_upgraded_file_is_like_a_new_one(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.db"

    async def open_only(database: Database) -> None: ...

    use(old, open_only)
    use(new, open_only)
    upgraded, fresh = schema(old), schema(new)
    assert upgraded.keys() == fresh.keys()
    for name, described in fresh.items():
        assert upgraded[name] == described, name


def test_an_upgrade_keeps_what_was_there_and_a_copy_of_the_file(old: Path) -> None:
    before = schema(old), rows(old)

    async def work(database: Database) -> None:
        message = await database.read(lambda session: db.require(session, Message, 2))
        assert (message.content, message.usage["total_tokens"], message.points) == ("晴", 9, None)
        await database.write(history.edit, 2, MessageUpdate(content="雨"))

    use(old, work)
    copy = old.with_name("chat.db.v1.backup")
    assert copy.stat().st_mode & 0o777 == 0o600
    assert (schema(copy), rows(copy)) == before


def test_a_file_of_a_newer_version_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as file:
        file.execute(f"PRAGMA user_version = {db.VERSION + 1}")
    with pytest.raises(StartError, match="newer version"):
        Database(path).open()


def test_another_programs_file_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StartError, match="another program"):
        Database(path).open()
    path.unlink()
    path.write_bytes(b"this is no database at all, but a text" * 100)
    with pytest.raises(StartError, match="not a database"):
        Database(path).open()


def test_a_folder_in_the_files_place_is_a_sentence(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StartError, match="cannot be opened: Is a directory"):
        Database(path).open()
