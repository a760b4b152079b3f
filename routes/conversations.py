import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from sqlalchemy import ColumnElement, Select, func, inspect, select, tuple_
from sqlmodel import Field, Session, col

import context
import history
import references
from db import ensure_project, public_json, require
from fields import now
from models import (
    NO_PROJECT,
    Archived,
    ContextPublic,
    Conversation,
    ConversationCreate,
    ConversationCreated,
    ConversationPublic,
    ConversationUpdate,
    Done,
    Project,
)
from questions import compose_for
from routes.deps import Absent, DatabaseDep, QueryId, QueryText, TurnsDep, errors

router = APIRouter(prefix="/v1/chat/conversations", tags=["conversations"])

Status = Annotated[Archived | None, Absent, Query(description="0 normal, 1 archived")]
Limit = Annotated[
    Annotated[int, Field(ge=1, le=1000)] | None, Absent, Query(description="50 unless told")
]

PROJECT_NAME: ColumnElement[str] = func.coalesce(col(Project.name), NO_PROJECT)
PUBLIC = public_json(
    ConversationPublic,
    Conversation,
    conversation_id=inspect(Conversation).columns.id,
    project_name=PROJECT_NAME,
)
NEWEST_FIRST = (col(Conversation.updated_at).desc(), col(Conversation.id).desc())


@router.post("", responses=errors())
async def create_conversation(
    db: DatabaseDep, body: ConversationCreate | None = None
) -> ConversationCreated:
    """Start a conversation; a `project_id` not seen before creates that project."""
    chat = await db.write(_create, body or ConversationCreate())
    return ConversationCreated(conversation_id=chat)


@router.get("", response_model=list[ConversationPublic], responses=errors(404))
async def list_conversations(
    db: DatabaseDep,
    project_id: QueryId = None,
    status: Status = None,
    limit: Limit = None,
    before: QueryText = None,
) -> Response:
    """Conversations, most recently updated first; `before` is the last id of the page before."""
    rows = await db.read(_page, project_id, status, limit or 50, before)
    return _json(_array(rows))


@router.get("/grouped", response_model=dict[str, list[ConversationPublic]])
async def grouped_conversations(db: DatabaseDep) -> Response:
    """All conversations by project name, most recently updated first; 其它 has no project."""
    return _json(await db.read(_grouped))


@router.get("/{conversation_id}", response_model=ConversationPublic, responses=errors(404))
async def get_conversation(conversation_id: str, db: DatabaseDep) -> Response:
    return _json(await db.read(_one, conversation_id))


@router.put("/{conversation_id}", responses=errors(404))
async def update_conversation(
    conversation_id: str, body: ConversationUpdate, db: DatabaseDep
) -> Done:
    """Change the fields that are sent; null clears one."""
    await db.write(_update, conversation_id, body)
    return Done(message="Conversation updated")


@router.delete("/{conversation_id}", responses=errors(404))
async def delete_conversation(conversation_id: str, db: DatabaseDep, turns: TurnsDep) -> Done:
    """Delete a conversation with its messages; a reply being written is stopped first."""
    await turns.stop_conversation(conversation_id)
    await db.write(_delete, conversation_id)
    await turns.stop_conversation(conversation_id)  # one may have begun between the two
    return Done(message="Conversation deleted")


@router.get("/{conversation_id}/context", responses=errors(404))
async def conversation_context(conversation_id: str, db: DatabaseDep) -> ContextPublic:
    """Exactly what the next turn would send to the model before its own message."""
    return await db.read(_context, conversation_id)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _array(items: Iterable[bytes]) -> bytes:
    return b"[%b]" % b",".join(items)


def _listed(*columns: object) -> Select[tuple[Any, ...]]:
    """A query of these columns over conversations and the projects they are in."""
    joined = select(*columns).select_from(Conversation)  # type: ignore[call-overload]
    query: Select[tuple[Any, ...]] = joined.outerjoin(
        Project, col(Project.id) == col(Conversation.project_id)
    )
    return query


def _create(session: Session, body: ConversationCreate) -> str:
    ensure_project(session, body.project_id)
    conversation = Conversation(**body.model_dump())
    session.add(conversation)
    return conversation.id


def _page(
    session: Session, project_id: int | None, status: int | None, limit: int, before: str | None
) -> list[bytes]:
    query = _listed(PUBLIC).order_by(*NEWEST_FIRST).limit(limit)
    if project_id is not None:
        query = query.where(col(Conversation.project_id) == project_id)
    if status is not None:
        query = query.where(col(Conversation.status) == status)
    if before is not None:
        last = require(session, Conversation, before)
        place = tuple_(col(Conversation.updated_at), col(Conversation.id))
        query = query.where(place < tuple_(last.updated_at, last.id))
    return [item for (item,) in session.execute(query)]


def _grouped(session: Session) -> bytes:
    groups = defaultdict[str, list[bytes]](list)
    for project, item in session.execute(_listed(PROJECT_NAME, PUBLIC).order_by(*NEWEST_FIRST)):
        groups[project].append(item)
    members = (json.dumps(name).encode() + b":" + _array(items) for name, items in groups.items())
    return b"{%b}" % b",".join(members)


def _one(session: Session, conversation_id: str) -> bytes:
    require(session, Conversation, conversation_id)
    query = _listed(PUBLIC).where(col(Conversation.id) == conversation_id)
    item: bytes = session.execute(query).scalar_one()
    return item


def _context(session: Session, conversation_id: str) -> ContextPublic:
    conversation = require(session, Conversation, conversation_id)
    prompt = compose_for(session, conversation, conversation.active_message_id, {})
    return ContextPublic(
        conversation_id=conversation_id,
        messages=prompt,
        characters=context.size(prompt),
        estimated_tokens=context.estimated_tokens(prompt),
    )


def _update(session: Session, conversation_id: str, body: ConversationUpdate) -> None:
    conversation = require(session, Conversation, conversation_id)
    ensure_project(session, body.project_id)
    if "active_message_id" in body.changes():
        history.require_message(session, conversation, body.active_message_id)
    if body.changes().get("project_id", conversation.project_id) != conversation.project_id:
        references.set_for_conversation(session, conversation_id, [])
    conversation.sqlmodel_update(body.changes())
    conversation.updated_at = now()


def _delete(session: Session, conversation_id: str) -> None:
    session.delete(require(session, Conversation, conversation_id))
