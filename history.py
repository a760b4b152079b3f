"""The tree of a conversation's messages: its active branch, what is added to it and taken away.

Every message hangs on its parent. `Conversation.active_message_id` names the leaf of the branch
that history shows and the model is sent; it is NULL while there is no message.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any, cast

from sqlalchemy import (
    Row,
    Table,
    bindparam,
    delete,
    func,
    insert,
    inspect,
    literal,
    select,
    update,
)
from sqlmodel import Session

from db import require
from errors import Conflict, NotFound
from fields import MAX_ID, now
from models import Conversation, Message, MessageUpdate, Part
from statements import Statement

NAME_LENGTH = 32

# Declared as something selectable; a mapped class of ours always has a table.
node: Table = inspect(Message).local_table  # type: ignore[assignment]
conversations: Table = inspect(Conversation).local_table  # type: ignore[assignment]
ONE = conversations.c.id == bindparam("conversation")
HEAD = Statement(select(conversations).where(ONE))
TOUCH = Statement(update(conversations).where(ONE).values(updated_at=bindparam("moment")))
LEAD = Statement(
    update(conversations)
    .where(ONE)
    .values(
        updated_at=bindparam("moment"),
        active_message_id=bindparam("leaf"),
        name=func.coalesce(conversations.c.name, bindparam("first")),
    )
)
EMPTY = Message(conversation_id="", role="").model_dump(exclude={"id"})
ADD = Statement(insert(node).values({name: bindparam(name) for name in EMPTY}))


def head(session: Session, conversation_id: str) -> Conversation:
    """A conversation to be read from only: its row, at a fifth of an object's cost. NotFound."""
    found = HEAD.rows(session, conversation=conversation_id)
    if not found:
        raise NotFound("Conversation")
    return cast(Conversation, found[0])


def branch(
    session: Session, leaf: int | None, *columns: Any, limit: int | None = None
) -> list[Any]:
    """These columns of the messages from the first one down to `leaf`, oldest first.

    With a limit, of so many of them at the end.
    """
    most = MAX_ID if limit is None else limit
    return _branch(*columns).rows(session, leaf=leaf, most=most)


@cache
def _branch(*columns: Any) -> Statement:
    """Made once for each choice of columns."""
    at_leaf = node.c.id == bindparam("leaf")
    start = select(node.c.id, node.c.parent_id, literal(0).label("depth")).where(at_leaf)
    path = start.cte("path", recursive=True)
    path = path.union_all(
        select(node.c.id, node.c.parent_id, path.c.depth + 1).where(
            node.c.id == path.c.parent_id, path.c.depth + 1 < bindparam("most")
        )
    )
    query = select(*columns).join(path, node.c.id == path.c.id)
    return Statement(query.order_by(path.c.depth.desc()))


def content_columns(content: str | list[Part]) -> dict[str, Any]:
    """A message's content as its columns: the text, and the parts where it was given as parts."""
    if isinstance(content, str):
        return {"content": content, "parts": None}
    parts = [part.model_dump(exclude_unset=True) for part in content]
    return {
        "content": "\n".join(part["text"] for part in parts if part["type"] == "text"),
        "parts": parts,
    }


def append(session: Session, conversation_id: str, parent_id: int | None, **columns: Any) -> int:
    """Add a message below another; it becomes the active leaf. Its id."""
    moment = now()
    placed = {"conversation_id": conversation_id, "parent_id": parent_id}
    times = {"created_at": moment, "updated_at": moment}
    message_id: int = ADD.run(session, **{**EMPTY, **placed, **times, **columns}).lastrowid
    name = name_from(columns["content"]) if columns["role"] == "user" else None
    LEAD.run(session, conversation=conversation_id, leaf=message_id, moment=moment, first=name)
    return message_id


def free_id(session: Session) -> int:
    """The id that the next message is given: higher than any that there ever was."""
    found = session.connection().exec_driver_sql(
        "SELECT seq FROM sqlite_sequence WHERE name = 'message'"
    )
    return (found.scalar() or 0) + 1


def name_from(content: str) -> str | None:
    """A conversation's name: the first line that says something, cut to 32 characters."""
    lines = (line.strip() for line in content.splitlines())
    return next((line[:NAME_LENGTH].strip() for line in lines if line), None)


def parent(session: Session, conversation: Conversation, asked: int | None) -> int | None:
    """What a new message hangs on: the active leaf unless another is asked for; 0 is the start."""
    if asked is None:
        return conversation.active_message_id
    return require_message(session, conversation, asked).id if asked else None


def require_message(session: Session, conversation: Conversation, message_id: int) -> Message:
    """A message of this conversation, or NotFound."""
    message = require(session, Message, message_id)
    if message.conversation_id != conversation.id:
        raise NotFound("Message")
    return message


def edit(session: Session, message_id: int, body: MessageUpdate) -> None:
    message = require(session, Message, message_id)
    _refuse_if_running([message.status])
    message.sqlmodel_update(content_columns(body.content))
    message.created_at = body.changes().get("created_at", message.created_at)
    message.updated_at = now()
    touch(session, message.conversation_id)


def remove(session: Session, message_ids: list[int]) -> int:
    """Delete messages; what hung on one hangs on its parent from now on. How many there were."""
    wanted = node.c.id.in_(select(func.json_each(json.dumps(message_ids)).table_valued("value")))
    columns = (node.c.id, node.c.parent_id, node.c.conversation_id, node.c.status)
    query = select(*columns, node.c.external_id)
    found = session.execute(query.where(wanted)).all()
    _refuse_if_running([row.status for row in found])
    kept = _kept_ancestors({row.id: row.parent_id for row in found})
    connection = session.connection()
    if found:
        connection.exec_driver_sql(
            "UPDATE message SET parent_id = ? WHERE parent_id = ?",
            [(kept[row.id], row.id) for row in found],
        )
        connection.exec_driver_sql(
            "UPDATE conversation SET active_message_id = ? WHERE id = ? AND active_message_id = ?",
            [(kept[row.id], row.conversation_id, row.id) for row in found],
        )
    _remember_deleted(session, found)
    session.execute(delete(Message).where(wanted))
    # Where nothing of the active branch is left, the newest of the others becomes active.
    connection.exec_driver_sql(
        "UPDATE conversation SET active_message_id ="
        " (SELECT max(id) FROM message WHERE conversation_id = conversation.id)"
        " WHERE active_message_id IS NULL AND id IN (SELECT value FROM json_each(?))",
        (json.dumps([row.conversation_id for row in found]),),
    )
    touch(session, *{row.conversation_id for row in found})
    return len(found)


def _kept_ancestors(gone: dict[int, int | None]) -> dict[int, int | None]:
    """For each message that goes, the nearest one above it that stays."""
    kept: dict[int, int | None] = {}
    for message_id in sorted(gone):  # a parent is older than its children
        parent_id = gone[message_id]
        kept[message_id] = kept.get(parent_id, parent_id) if parent_id else None
    return kept


def touch(session: Session, *conversation_ids: str) -> None:
    """Mark conversations as changed just now."""
    for id_ in conversation_ids:
        TOUCH.run(session, conversation=id_, moment=now())


def _remember_deleted(session: Session, found: Sequence[Row[Any]]) -> None:
    """What came from another program would else come again with the next import."""
    gone = defaultdict[str, list[str]](list)
    for row in found:
        if row.external_id is not None:
            gone[row.conversation_id].append(row.external_id)
    for conversation_id, ids in gone.items():
        conversation = require(session, Conversation, conversation_id)
        conversation.deleted_external_ids = [*(conversation.deleted_external_ids or []), *ids]
    session.flush()


def _refuse_if_running(statuses: Sequence[str]) -> None:
    if "streaming" in statuses:
        raise Conflict("The reply is still being written: stop it first, or wait for its end")
