import json
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from pydantic import Field, StringConstraints
from sqlalchemy import select
from sqlmodel import Session
from sse_starlette import EventSourceResponse

import events
import history
import questions
from db import public_json, require
from errors import UpstreamError
from fields import MAX_ID
from history import node
from models import (
    Conversation,
    Done,
    History,
    Message,
    MessageCreate,
    MessageIds,
    MessagePublic,
    MessageUpdate,
    Regenerate,
    Stopped,
    StopStream,
    TreeMessage,
    TurnAnswer,
)
from reply import Reply
from routes.deps import (
    FOLLOWING,
    STREAMED,
    TURN,
    Absent,
    DatabaseDep,
    IdempotencyKey,
    KeyDep,
    NoHeader,
    PathId,
    QueryId,
    TurnsDep,
    errors,
)

router = APIRouter(prefix="/v1/chat", tags=["messages"])

# Where a reader is: a number of characters, or the end.
Position = Annotated[str, StringConstraints(pattern=rf"^(\d{{1,18}}|{events.DONE_ID})$")]

PUBLIC = public_json(MessagePublic, Message)
Limit = Annotated[Annotated[int, Field(ge=1, le=MAX_ID)] | None, Absent, Query()]


@router.get(
    "/conversations/{conversation_id}/messages", response_model=History, responses=errors(404)
)
async def get_history(
    conversation_id: str,
    db: DatabaseDep,
    all: bool = False,
    limit: Limit = None,
    before: QueryId = None,
) -> Response:
    """The conversation as the model sees it: the system prompt first, then the oldest message.

    With `limit`, only so many at the end, or before the message with the id `before`; the system
    prompt comes with the page that reaches the start. With `all`, the messages of every branch,
    each with its `parent_id` and whether it is `active`.
    """
    work = _all_branches if all else _history
    body = await db.read(work, conversation_id, limit, before)
    return Response(body, media_type="application/json")


@router.post(
    "/conversations/{conversation_id}/messages",
    response_model=TurnAnswer,
    responses=TURN,
    dependencies=[FOLLOWING],
)
async def send_message(
    conversation_id: str,
    body: MessageCreate,
    db: DatabaseDep,
    turns: TurnsDep,
    key: KeyDep,
    idempotency_key: IdempotencyKey = None,
) -> object:
    """Say something. A `user` message is answered by the model; other roles are only stored.

    With `stream` the answer is an event stream that ends with `data: [DONE]`, sent once the reply
    is stored. The turn goes on whether or not anyone listens. With an `Idempotency-Key` the same
    request may be sent again: it joins or repeats the turn that it began the first time.
    """
    idempotency = questions.fingerprint(idempotency_key, body) if idempotency_key else None
    if body.role != "user":
        message_id = await db.write(questions.keep, conversation_id, body, idempotency)
        return _stored(conversation_id, message_id, body)
    reply = await turns.ask(questions.Say(conversation_id, key, idempotency, body=body))
    return await _answer(reply, body.stream)


@router.post(
    "/messages/{message_id}/regenerate",
    response_model=TurnAnswer,
    responses=TURN,
    dependencies=[FOLLOWING],
)
async def regenerate(
    message_id: PathId, body: Regenerate, db: DatabaseDep, turns: TurnsDep, key: KeyDep
) -> object:
    """Ask again: for a reply, or for the answer that a message has lost.

    The new reply becomes the active branch; the old one is kept beside it.
    """
    message = await db.read(require, Message, message_id)
    question = questions.AskAgain(message.conversation_id, key, message_id=message_id, body=body)
    return await _answer(await turns.ask(question), body.stream)


@router.get(
    "/messages/{message_id}/stream",
    response_class=EventSourceResponse,
    responses={
        **STREAMED,
        204: {"description": "The reader has had everything"},
        **errors(404, 429),
    },
    dependencies=[FOLLOWING],
)
async def follow_reply(
    message_id: PathId,
    turns: TurnsDep,
    after: QueryId = None,
    last_event_id: Annotated[Position | NoHeader, Header()] = None,
) -> Response:
    """Read a reply as an event stream: all of it so far, then what comes, to the end.

    Each event's `id` counts the characters of the reply up to it; `after`, or the `Last-Event-ID`
    that an `EventSource` sends when it comes back, skips that many.
    """
    reply = await turns.find(message_id)
    if after is None and last_event_id == events.DONE_ID:
        return Response(status_code=204)
    position = int(last_event_id or 0) if after is None else after
    return events.stream(events.follow_events(reply, position))


@router.put("/messages/{message_id}", responses=errors(404, 409))
async def update_message(message_id: PathId, body: MessageUpdate, db: DatabaseDep) -> Done:
    """Replace a message's content, and its time if one is given."""
    await db.write(history.edit, message_id, body)
    return Done(message="Message updated")


@router.post("/messages/delete", responses=errors(409))
async def delete_messages(body: MessageIds, db: DatabaseDep) -> Done:
    """Delete messages by id, whichever conversations they are in."""
    count = await db.write(history.remove, body.message_ids)
    return Done(message=f"{count} messages deleted")


@router.post("/stop-stream", responses=errors(404))
async def stop_stream(body: StopStream, turns: TurnsDep) -> Stopped:
    """Stop a reply and keep its text so far; the session id is in a stream's first event."""
    await turns.stop(body.session_id)
    return Stopped(message="Stream stopped", session_id=body.session_id)


def _history(
    session: Session, conversation_id: str, limit: int | None, before: int | None
) -> bytes:
    conversation = history.head(session, conversation_id)
    leaf = conversation.active_message_id
    if before is not None:
        leaf = history.require_message(session, conversation, before).parent_id
    rows = history.branch(session, leaf, node.c.parent_id, PUBLIC, limit=limit)
    messages = [row[1] for row in rows]
    if conversation.system_prompt and (not rows or rows[0].parent_id is None):
        messages.insert(0, _prompt(conversation).model_dump_json(exclude={"active"}).encode())
    return _page(conversation, messages)


def _all_branches(
    session: Session, conversation_id: str, limit: int | None, before: int | None
) -> bytes:
    """Every message of a conversation, oldest first, each told whether history shows it."""
    conversation = require(session, Conversation, conversation_id)
    branch = history.branch(session, conversation.active_message_id, node.c.id)
    active = {message_id for (message_id,) in branch}
    query = select(node.c.id, PUBLIC).where(node.c.conversation_id == conversation_id)
    if before is not None:
        history.require_message(session, conversation, before)
        query = query.where(node.c.id < before)
    rows = session.execute(query.order_by(node.c.id.desc()).limit(limit)).all()
    messages = [
        item[:-1] + (b',"active":true}' if message_id in active else b',"active":false}')
        for message_id, item in reversed(rows)
    ]
    if conversation.system_prompt and (limit is None or len(rows) < limit):
        messages.insert(0, _prompt(conversation).model_dump_json().encode())
    return _page(conversation, messages)


def _prompt(conversation: Conversation) -> TreeMessage:
    """The system prompt, which stands in history with id 0."""
    return TreeMessage(
        id=0,
        role="system",
        content=conversation.system_prompt or "",
        created_at=conversation.created_at,
        updated_at=conversation.updated_at,
        active=True,
    )


def _page(conversation: Conversation, messages: list[bytes]) -> bytes:
    head = f'{{"conversation_id":{json.dumps(conversation.id)},"messages":['
    return b"%b%b]}" % (head.encode(), b",".join(messages))


def _stored(conversation_id: str, message_id: int, body: MessageCreate) -> object:
    """The answer where nothing was asked; as a stream it has a first event and an end."""
    reply_id = message_id if body.role == "assistant" else None
    if body.stream:
        return events.stream(events.stored_events(conversation_id, message_id, reply_id))
    return TurnAnswer(
        conversation_id=conversation_id,
        reply=None,
        user_message_id=message_id,
        assistant_message_id=reply_id,
    )


async def _answer(reply: Reply, streamed: bool) -> object:
    if streamed:
        return events.stream(events.turn_events(reply))
    outcome = await reply.finished()
    if outcome.error is not None:
        raise UpstreamError(outcome.error, status=outcome.error_status)
    return TurnAnswer(
        conversation_id=reply.conversation_id,
        reply=reply.text(),
        user_message_id=reply.user_message_id,
        assistant_message_id=reply.message_id,
        session_id=reply.session_id,
        model=reply.model,
        finish_reason=outcome.finish_reason,
        usage=outcome.usage,
        omitted=reply.omitted,
    )
