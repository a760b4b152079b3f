"""Everything in one file that other programs can read, and this one takes back (see importing.py).

The format is described in docs/export-format.md. Rows are read in pages and a conversation at a
time, so the memory it takes is that of the longest conversation.
"""

import asyncio
import json
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Column, func, inspect
from sqlmodel import Session, SQLModel, col, select

import markdown
from db import Database, require
from fields import now
from models import (
    NO_PROJECT,
    Category,
    Conversation,
    Document,
    DocumentReference,
    Draft,
    Message,
    PoePoints,
    Project,
)

FORMAT = "poe-openai-fastapi-proxy"
FORMAT_VERSION = 1
# What belongs to requests, not to what was said.
INSIDE = frozenset({"session_id", "idempotency_key", "idempotency_hash"})
# Conversations are written last, and each with its messages.
TABLES: dict[str, type[SQLModel]] = {
    "projects": Project,
    "categories": Category,
    "documents": Document,
    "references": DocumentReference,
    "drafts": Draft,
    "points": PoePoints,
}
PAGE = 50

Item = dict[str, Any]


async def export(db: Database) -> AsyncIterator[str]:
    """All there is, as pieces of one JSON object."""
    yield _opening()
    for name, table in TABLES.items():
        yield f',\n"{name}": ['
        comma = ""
        async for items in _pages(db, table):
            yield f"{comma}\n{await asyncio.to_thread(_json, *items)}"
            comma = ","
        yield "]"
    yield ',\n"conversations": ['
    comma = ""
    async for conversation in conversations(db):
        yield f"{comma}\n{await asyncio.to_thread(_json, conversation)}"
        comma = ","
    yield "]}\n"


async def export_one(db: Database, conversation_id: str) -> str:
    """One conversation, in the same format."""
    project, conversation = await db.read(_with_project, conversation_id)
    projects = [_json(project)] if project else []
    lists = {"projects": projects, **{name: [] for name in list(TABLES)[1:]}}
    lists["conversations"] = [await asyncio.to_thread(_json, conversation)]
    pieces = (f',\n"{name}": [{"".join(items)}]' for name, items in lists.items())
    return f"{_opening()}{''.join(pieces)}}}\n"


async def export_markdown(db: Database, conversation_id: str) -> tuple[str, str]:
    """One conversation as a person reads it, and a file's name for it."""
    project, conversation = await db.read(_with_project, conversation_id)
    name = project["name"] if project else None
    text = await asyncio.to_thread(markdown.render, conversation, name)
    return text, markdown.file_name(conversation["name"]) + ".md"


async def export_zip(db: Database, path: Path) -> None:
    """Every conversation as a Markdown file, in a folder for each project."""
    projects = {0: NO_PROJECT}
    async for items in _pages(db, Project):
        projects |= {item["id"]: item["name"] for item in items}
    folders, names = markdown.Names(), markdown.Names()
    folder_of = {id_: folders.free("", name) for id_, name in projects.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        async for conversation in conversations(db):
            project_id = conversation["project_id"]
            folder = folder_of.get(project_id, folder_of[0])
            name = names.free(folder, conversation["name"])
            entry = zipfile.ZipInfo(f"{folder}/{name}.md", _moment(conversation["updated_at"]))
            entry.compress_type = zipfile.ZIP_DEFLATED
            shown = projects.get(project_id) if project_id else None
            text = await asyncio.to_thread(markdown.render, conversation, shown)
            await asyncio.to_thread(archive.writestr, entry, text)


async def conversations(db: Database) -> AsyncIterator[Item]:
    """Every conversation with its messages, each of one moment."""
    after = ""
    while conversation := await db.read(_next, after):
        after = conversation["id"]
        yield conversation


def count(session: Session) -> int:
    """About how many pieces an export has."""
    return session.exec(select(func.count()).select_from(Conversation)).one() + 2 * len(TABLES)


def columns(table: type[SQLModel]) -> list[Column[Any]]:
    """What is told of a row: all but what belongs to requests."""
    return [column for column in inspect(table).local_table.columns if column.key not in INSIDE]


def _opening() -> str:
    head = {"format": FORMAT, "version": FORMAT_VERSION, "exported_at": now()}
    return json.dumps(head)[:-1]


def _json(*items: Item) -> str:
    """One item a line."""
    return ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)


async def _pages(db: Database, table: type[SQLModel]) -> AsyncIterator[list[Item]]:
    after = 0
    while items := await db.read(_page, table, after):
        yield items
        after = items[-1]["id"]


def _page(session: Session, table: type[SQLModel], after: int) -> list[Item]:
    condition = inspect(table).local_table.c.id > after
    if table is Draft:  # those that became a document are told there
        condition &= col(Draft.document_id).is_(None)
    return list(_rows(session, table, condition, limit=PAGE))


def _next(session: Session, after: str) -> Item | None:
    query = select(Conversation.id).where(col(Conversation.id) > after)
    found = session.exec(query.order_by(col(Conversation.id)).limit(1)).first()
    return _whole(session, found) if found else None


def _with_project(session: Session, conversation_id: str) -> tuple[Item | None, Item]:
    project_id = require(session, Conversation, conversation_id).project_id
    projects = _rows(session, Project, col(Project.id) == project_id)
    return next(projects, None), _whole(session, conversation_id)


def _whole(session: Session, conversation_id: str) -> Item:
    (conversation,) = _rows(session, Conversation, col(Conversation.id) == conversation_id)
    own = col(Message.conversation_id) == conversation_id
    conversation["messages"] = list(_rows(session, Message, own))
    return conversation


def _rows(
    session: Session, table: type[SQLModel], condition: Any, limit: int | None = None
) -> Iterator[Item]:
    wanted = columns(table)
    key = inspect(table).local_table.c.id
    query = select(*wanted).where(condition).order_by(key).limit(limit)
    return (dict(row._mapping) for row in session.execute(query))


def _moment(time: str) -> tuple[int, int, int, int, int, int]:
    """A time as ZIP files keep it: from 1980 on."""
    year, month, day = int(time[:4]), int(time[5:7]), int(time[8:10])
    if not 1980 <= year <= 2107:
        return 1980, 1, 1, 0, 0, 0
    return year, month, day, int(time[11:13]), int(time[14:16]), int(time[17:19])
