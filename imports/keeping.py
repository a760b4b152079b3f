"""The chats of other programs, stored: each whole, in a transaction of its own, and only once.

A chat is known by its program and its id there, a message by its own in it. A later file may bring
what was said in a chat since: it is added where it belongs. What was deleted here stays deleted,
and what was said here stays the branch that is shown.
"""

from typing import Any, NamedTuple

from sqlalchemy import insert, select
from sqlmodel import Session, col

import history
from fields import now, storable
from imports.chats import Chat, Node
from models import Conversation, Message, Project

# Where messages are, by their external ids; of a deleted one, what it hung on.
Ids = dict[str, int | None]


class Kept(NamedTuple):
    """What was added of a chat."""

    projects: int
    conversations: int
    messages: int


def keep(session: Session, chat: Chat) -> Kept:
    """Store what is not there yet. Invalid where the chat has nothing to keep."""
    nodes, leaf = chat.tree()
    known = select(Conversation).where(
        col(Conversation.source) == chat.source,
        col(Conversation.external_id) == storable(chat.id),
    )
    here = session.execute(known).scalar_one_or_none()
    projects, conversations = 0, 0
    if here is None:
        projects, project_id = _project(session, chat.project)
        here = _conversation(chat, nodes, project_id)
        session.add(here)
        session.flush()
        conversations = 1
    ids = _there(session, here)
    shown = here.active_message_id in {None, *ids.values()}
    rows = _rows(session, here, nodes, ids)
    if rows:
        session.connection().execute(insert(history.node), rows)
        here.updated_at = max(here.updated_at, _last(chat, nodes))
        if shown:
            here.active_message_id = ids[_external(here, leaf)] or rows[-1]["id"]
    return Kept(projects, conversations, len(rows))


def _project(session: Session, name: str | None) -> tuple[int, int]:
    """How many were made, and the project's id; 0 where the chat is in none."""
    if name is None:
        return 0, 0
    name = storable(name)
    found = session.execute(select(col(Project.id)).where(col(Project.name) == name)).scalar()
    if found is not None:
        return 0, found
    project = Project(name=name)
    session.add(project)
    session.flush()
    return 1, project.id or 0


def _conversation(chat: Chat, nodes: list[Node], project_id: int) -> Conversation:
    first = next((node.content for node in nodes if node.role == "user"), "")
    name = storable(chat.name or history.name_from(first) or "")
    times = [node.created_at for node in nodes if node.created_at]
    created_at = chat.created_at or min(times, default=now())
    return Conversation(
        name=name or None,
        system_prompt=storable(chat.system_prompt or "") or None,
        model=storable(chat.model or "") or None,
        status=int(chat.archived),
        project_id=project_id,
        source=chat.source,
        external_id=storable(chat.id),
        created_at=created_at,
        updated_at=max(created_at, _last(chat, nodes)),
    )


def _last(chat: Chat, nodes: list[Node]) -> str:
    return chat.updated_at or max(node.created_at or "" for node in nodes)


def _there(session: Session, here: Conversation) -> Ids:
    """The messages that came in a file before and are still here."""
    query = select(col(Message.external_id), col(Message.id)).where(
        col(Message.conversation_id) == here.id, col(Message.external_id).is_not(None)
    )
    return {row.external_id: row.id for row in session.execute(query)}


def _rows(
    session: Session, here: Conversation, nodes: list[Node], ids: Ids
) -> list[dict[str, Any]]:
    """What is to be inserted; `ids` learns of every message of the file."""
    rows: list[dict[str, Any]] = []
    free = history.free_id(session)
    deleted = set(here.deleted_external_ids or [])
    for node in nodes:
        external_id = _external(here, node.id)
        parent = ids.get(_external(here, node.parent)) if node.parent else None
        if external_id not in ids and external_id not in deleted:
            ids[external_id] = free + len(rows)
            rows.append(_row(here, node, free + len(rows), parent))
        ids.setdefault(external_id, parent)
    return rows


def _row(here: Conversation, node: Node, id_: int, parent: int | None) -> dict[str, Any]:
    time = node.created_at or here.created_at
    return {
        "id": id_,
        "conversation_id": here.id,
        "parent_id": parent,
        "role": node.role,
        "content": storable(node.content),
        "reasoning": storable(node.reasoning) or None,
        "model": storable(node.model or "") or None,
        "status": "interrupted" if node.cut_off else "complete",
        "source": here.source,
        "external_id": _external(here, node.id),
        "created_at": time,
        "updated_at": time,
    }


def _external(here: Conversation, id_: str) -> str:
    """A message's id there is unique within its chat only: copies of a chat repeat them."""
    return f"{here.external_id}:{storable(id_)}"
