"""Our own export, taken back: what is there already stays as it is, so a file may come twice.

Ids stay what they were where they are free; where one is taken the row gets another, and all that
refers to it follows. Each conversation is stored whole, in a transaction of its own, or not at all.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any
from uuid import uuid4

from sqlalchemy import func, insert, inspect, update
from sqlmodel import Session, SQLModel, col, select

import history
import seeds
import versions
from db import Database, ensure_project
from errors import Invalid
from imports.results import PIECE_ERRORS, Progress, Results
from imports.rows import Archive, message_of, row_of
from models import (
    Category,
    Conversation,
    Document,
    DocumentReference,
    Draft,
    Message,
    PoePoints,
    Project,
)

PAGE = 50

Item = dict[str, Any]


async def take(db: Database, archive: Archive, results: Results, told: Progress) -> None:
    """Store what an export has and the database has not."""
    store = Store(results)
    for name in archive.lists.keys() - store.stores.keys():
        results.skip(name, None, "It is no list that this version knows")
    done, total = 0, sum(end - begin for begin, end in archive.lists.values())
    for name in store.stores:
        items = archive.items(name)
        while page := await asyncio.to_thread(_next, items, 1 if name == "conversations" else PAGE):
            await db.write(store.page, name, [item for item, _ in page])
            done += sum(size for _, size in page)
            told(done, total)
    await db.write(store.mend)


def _next(items: Iterator[tuple[Any, int]], count: int) -> list[tuple[Any, int]]:
    return list(islice(items, count))


class Store:
    """What has been stored of a file so far, and which ids its rows were given."""

    def __init__(self, results: Results) -> None:
        self._results = results
        # What others refer to comes first.
        self.stores: dict[str, Callable[[Session, Item], bool]] = {
            "projects": self._project,
            "categories": self._category,
            "documents": self._document,
            "conversations": self._conversation,
            "references": self._reference,
            "drafts": self._draft,
            "points": self._points,
        }
        self._projects: dict[int, int] = {0: 0}
        self._categories: dict[int, int] = {}
        self._documents: dict[int, int] = {}
        # Only those that could not keep their id.
        self._messages: dict[int, int] = {}
        self._targets: dict[int, int] = {}
        self._sources: dict[int, list[int]] = {}

    def page(self, session: Session, name: str, items: list[Any]) -> None:
        """Store these, each whole or not at all."""
        for item in items:
            try:
                if isinstance(item, Exception):
                    raise item
                with session.begin_nested():
                    added = self.stores[name](session, item)
            except PIECE_ERRORS as error:
                id_ = item.get("id") if isinstance(item, dict) else None
                self._results.skip(name, id_, error)
            else:
                counts = self._results.added if added else self._results.existing
                counts[name] += 1

    def mend(self, session: Session) -> None:
        """Let categories and documents refer to rows that were stored after them."""
        for id_, target in self._targets.items():
            values = {"auto_save_category_id": self._categories.get(target)}
            session.execute(update(Category).where(col(Category.id) == id_).values(**values))
        for id_, sources in self._sources.items():
            ids = [self._messages.get(source, source) for source in sources]
            query = update(Document).where(col(Document.id) == id_)
            session.execute(query.values(message_ids=ids))

    def _project(self, session: Session, item: Item) -> bool:
        row = row_of("projects", item)
        here = session.get(Project, row["id"])
        if here is None or here.created_time != row["created_time"]:
            named = session.exec(select(Project).where(Project.name == row["name"])).first()
            here = named or here if here and here.name == row["name"] else named
        if here:
            self._projects[row["id"]] = here.id or 0
            return False
        self._projects[row["id"]] = _insert(session, Project, row)
        return True

    def _category(self, session: Session, item: Item) -> bool:
        row = row_of("categories", item)
        old, target = row["id"], row.pop("auto_save_category_id")
        here = session.get(Category, old)
        if not (here and (row["is_builtin"] or here.created_time == row["created_time"])):
            here = session.exec(select(Category).where(Category.name == row["name"])).first()
        if here is None:
            row["is_builtin"] = False
            self._categories[old] = _insert(session, Category, row)
        else:
            assert here.id is not None
            self._categories[old] = here.id
            if here.id != old or not seeds.untouched(here):
                return False
            # Nobody has edited what this file was planted with: it takes the other one's place.
            here.sqlmodel_update(row)
            session.flush()
        if target is not None:
            self._targets[self._categories[old]] = target
        return row["is_builtin"] is False

    def _document(self, session: Session, item: Item) -> bool:
        row = row_of("documents", item)
        row["project_id"] = self._project_of(session, row)
        row["category_id"] = self._known(self._categories, row["category_id"], "category_id")
        same = versions.of(row["project_id"], row["category_id"], row["filename"])
        twins = select(Document).where(*same, Document.created_time == row["created_time"])
        here = session.get(Document, row["id"])
        for twin in [here, *session.exec(twins)]:
            alike = twin and (twin.created_time, twin.content) == (
                row["created_time"],
                row["content"],
            )
            if twin and alike and twin.id is not None:
                self._documents[row["id"]] = twin.id
                return False
        taken = session.exec(select(Document.id).where(*same, Document.version == row["version"]))
        if taken.first() is not None:
            row["version"] = versions.next_version(
                session, row["project_id"], row["category_id"], row["filename"]
            )
        old = row["id"]
        self._documents[old] = _insert(session, Document, row)
        if row["message_ids"]:
            self._sources[self._documents[old]] = row["message_ids"]
        return True

    def _conversation(self, session: Session, item: Item) -> bool:
        if not isinstance(item, dict) or not isinstance(item.get("messages"), list):
            raise Invalid("must be a list", field="messages")
        row = row_of("conversations", {k: v for k, v in item.items() if k != "messages"})
        if session.get(Conversation, row["id"]) or _from_elsewhere(session, row):
            return False
        row["project_id"] = self._project_of(session, row)
        rows = [message_of(message, row["id"]) for message in item["messages"]]
        rows.sort(key=lambda message: int(message["id"]))
        active = row.pop("active_message_id")
        _insert(session, Conversation, row)
        new_ids = self._insert_messages(session, rows)
        if active is not None and active not in new_ids:
            raise Invalid("is none of its messages", field="active_message_id")
        query = update(Conversation).where(col(Conversation.id) == row["id"])
        session.execute(query.values(active_message_id=new_ids.get(active)))
        self._messages |= {old: new for old, new in new_ids.items() if old and old != new}
        self._results.added["messages"] += len(rows)
        return True

    def _insert_messages(self, session: Session, rows: list[Item]) -> dict[int | None, int]:
        """Parents first, so that a new id is above its parent's. What id each was given."""
        ids = json.dumps([row["id"] for row in rows])
        taken = select(Message.id).where(col(Message.id).in_(_listed(ids)))
        keep = session.exec(taken.limit(1)).first() is None
        free = history.free_id(session)
        given: dict[int | None, int] = {}
        for row in rows:
            old, parent = row["id"], row["parent_id"]
            if (parent is not None and parent not in given) or old in given:
                raise Invalid("must be an earlier message of the conversation", field="parent_id")
            given[old] = row["id"] = old if keep else free + len(given)
            row["parent_id"] = given[parent] if parent is not None else None
            if asked := (row["request"] or {}).get("documents"):
                row["request"]["documents"] = [self._documents.get(id_, id_) for id_ in asked]
        if rows:
            session.connection().execute(insert(history.node), rows)
        return given

    def _reference(self, session: Session, item: Item) -> bool:
        row = row_of("references", item)
        row["project_id"] = self._project_of(session, row)
        row["document_id"] = self._known(self._documents, row["document_id"], "document_id")
        return _add(session, DocumentReference, row, "project_id", "conversation_id", "document_id")

    def _draft(self, session: Session, item: Item) -> bool:
        row = row_of("drafts", item)
        row["project_id"] = self._project_of(session, row)
        row["category_id"] = self._known(self._categories, row["category_id"], "category_id")
        row["session_id"] = uuid4().hex
        return _add(session, Draft, row, "conversation_id", "category_id", "created_time")

    def _points(self, session: Session, item: Item) -> bool:
        return _add(session, PoePoints, row_of("points", item), "query_id")

    def _project_of(self, session: Session, row: Item) -> int:
        """Its project here; one that the file only names by number is made, as it is elsewhere."""
        old: int = row["project_id"]
        if old not in self._projects:
            ensure_project(session, old)
        return self._projects.get(old, old)

    def _known(self, ids: dict[int, int], old: int, field: str) -> int:
        if old not in ids:
            raise Invalid("names what the file has not", field=field)
        return ids[old]


def _add(session: Session, table: type[SQLModel], row: Item, *known_by: str) -> bool:
    """Store a row unless there is one that has the same in these columns; whether it was stored."""
    columns = inspect(table).local_table.c
    same = (columns[name].is_not_distinct_from(row[name]) for name in known_by)
    if session.execute(select(columns.id).where(*same)).first():
        return False
    _insert(session, table, row)
    return True


def _insert(session: Session, table: type[SQLModel], row: Item) -> Any:
    """Store a row, under its id if that is free; the id."""
    core = inspect(table).local_table
    if (
        row["id"] is not None
        and session.execute(select(core.c.id).where(core.c.id == row["id"])).first()
    ):
        row = {**row, "id": None}
    if row["id"] is None:
        row = {name: value for name, value in row.items() if name != "id"}
    return session.execute(insert(core).values(**row).returning(core.c.id)).scalar_one()


def _from_elsewhere(session: Session, row: Item) -> bool:
    """Whether the conversation was brought here from the same source before."""
    if row["external_id"] is None:
        return False
    same = (Conversation.source == row["source"], Conversation.external_id == row["external_id"])
    return session.exec(select(Conversation.id).where(*same)).first() is not None


def _listed(ids: str) -> Any:
    return select(func.json_each(ids).table_valued("value"))
