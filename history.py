"""The tree of a conversation's messages: its active branch, what is added to it and taken away.

Every message hangs on its parent. `Conversation.active_message_id` names the leaf of the branch
that history shows and the model is sent; it is NULL while there is no message.
"""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, func, insert, literal, select, update
from sqlmodel import Session, col, delete

from db import require
from errors import Conflict
from fields import now
from models import Conversation, Message, MessageCreate, MessageUpdate, Part

NAME_LENGTH = 32

node = Message.__table__  # type: ignore[attr-defined]


def branch(session: Session, leaf: int | None, *columns: Any) -> Sequence[Row[Any]]:
    """These columns of the messages from the first one down to `leaf`, oldest first."""
    start = select(node.c.id, node.c.parent_id, literal(0).label("depth")).where(node.c.id == leaf)
    path = start.cte("path", recursive=True)
    path = path.union_all(
        select(node.c.id, node.c.parent_id, path.c.depth + 1).where(node.c.id == path.c.parent_id)
    )
    query = select(*columns).join(path, node.c.id == path.c.id).order_by(path.c.depth.desc())
    return session.execute(query).all()


def content_columns(content: str | list[Part]) -> dict[str, Any]:
    """A message's content as its columns: the text, and the parts where it was given as parts."""
    if isinstance(content, str):
        return {"content": content, "parts": None}
    parts = [part.model_dump(exclude_unset=True) for part in content]
    return {
        "content": "\n".join(part["text"] for part in parts if part["type"] == "text"),
        "parts": parts,
    }


def append(session: Session, conversation: Conversation, **columns: Any) -> int:
    """Add a message below the active leaf, which it becomes; its id."""
    moment = now()
    query = insert(Message).values(
        conversation_id=conversation.id,
        parent_id=conversation.active_message_id,
        created_at=moment,
        updated_at=moment,
        **columns,
    )
    message_id: int = session.execute(query.returning(col(Message.id))).scalar_one()
    conversation.active_message_id = message_id
    conversation.updated_at = moment
    if columns["role"] == "user" and not conversation.name:
        conversation.name = name_from(columns["content"])
    session.add(conversation)
    return message_id


def name_from(content: str) -> str | None:
    """A conversation's name: the first line that says something, cut to 32 characters."""
    lines = (line.strip() for line in content.splitlines())
    return next((line[:NAME_LENGTH].strip() for line in lines if line), None)


def keep(session: Session, conversation_id: str, body: MessageCreate) -> int:
    """Store a message that asks nothing; its id."""
    conversation = require(session, Conversation, conversation_id)
    columns = content_columns(body.content)
    return append(session, conversation, role=body.role, model=body.model, **columns)


def edit(session: Session, message_id: int, body: MessageUpdate) -> None:
    message = require(session, Message, message_id)
    _refuse_if_running([message])
    message.sqlmodel_update(content_columns(body.content))
    message.created_at = body.changes().get("created_at", message.created_at)
    message.updated_at = now()
    _touch(session, {message.conversation_id})


def remove(session: Session, message_ids: list[int]) -> int:
    """Delete messages; what hung on one hangs on its parent from now on. How many there were."""
    wanted = func.json_each(json.dumps(message_ids)).table_valued("value")
    query = select(Message).where(col(Message.id).in_(select(wanted.c.value)))
    found = session.scalars(query).all()
    _refuse_if_running(found)
    for message in found:
        session.expire(message, ["parent_id"])  # an earlier deletion may have moved it
        hung = update(Message).where(col(Message.parent_id) == message.id)
        session.execute(hung.values(parent_id=message.parent_id))
        active = update(Conversation).where(col(Conversation.active_message_id) == message.id)
        session.execute(active.values(active_message_id=message.parent_id))
        session.execute(delete(Message).where(col(Message.id) == message.id))
    _touch(session, {message.conversation_id for message in found})
    return len(found)


def _touch(session: Session, conversation_ids: set[str]) -> None:
    for conversation_id in conversation_ids:
        query = update(Conversation).where(col(Conversation.id) == conversation_id)
        session.execute(query.values(updated_at=now()))


def _refuse_if_running(messages: Sequence[Message]) -> None:
    if any(message.status == "streaming" for message in messages):
        raise Conflict("The reply is still being written: stop it first, or wait for its end")
