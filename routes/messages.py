from typing import Any

from fastapi import APIRouter, Response
from sqlmodel import Session

import events
import history
from db import public_json, require
from errors import UpstreamError
from models import (
    Conversation,
    Done,
    History,
    Message,
    MessageCreate,
    MessageIds,
    MessagePublic,
    MessageUpdate,
    Stopped,
    StopStream,
    TurnAnswer,
)
from reply import Reply
from routes.deps import DatabaseDep, KeyDep, PathId, TurnsDep, errors

router = APIRouter(prefix="/v1/chat", tags=["messages"])

PUBLIC = public_json(MessagePublic, Message)
TURN: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
    **errors(400, 401, 402, 403, 404, 408, 409, 413, 429, 502, 503, 504, 507),
}


@router.get(
    "/conversations/{conversation_id}/messages", response_model=History, responses=errors(404)
)
async def get_history(conversation_id: str, db: DatabaseDep) -> Response:
    """The conversation as the model sees it: the system prompt first, then the oldest message."""
    return Response(await db.read(_history, conversation_id), media_type="application/json")


@router.post("/conversations/{conversation_id}/messages", response_model=TurnAnswer, responses=TURN)
async def send_message(
    conversation_id: str, body: MessageCreate, db: DatabaseDep, turns: TurnsDep, key: KeyDep
) -> object:
    """Say something. A `user` message is answered by the model; other roles are only stored.

    With `stream` the answer is an event stream that ends with `data: [DONE]`, sent once the reply
    is stored. The turn goes on whether or not anyone listens.
    """
    if body.role != "user":
        message_id = await db.write(history.keep, conversation_id, body)
        return _stored(conversation_id, message_id, body)
    reply = await turns.ask(conversation_id, body, key)
    if body.stream:
        return events.stream(events.turn_events(reply))
    return await _answer(reply)


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


def _history(session: Session, conversation_id: str) -> str:
    conversation = require(session, Conversation, conversation_id)
    messages = [text for (text,) in history.branch(session, conversation.active_message_id, PUBLIC)]
    if conversation.system_prompt:
        prompt = MessagePublic(
            id=0,
            role="system",
            content=conversation.system_prompt,
            created_at=conversation.created_at,
            updated_at=conversation.updated_at,
        )
        messages.insert(0, prompt.model_dump_json())
    return f'{{"conversation_id":"{conversation.id}","messages":[{",".join(messages)}]}}'


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


async def _answer(reply: Reply) -> TurnAnswer:
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
    )
