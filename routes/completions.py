from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from pydantic import SecretStr
from sqlmodel import Session

import events
import memory
from db import require
from errors import Invalid, UpstreamError
from models import Conversation, OpenAICall, ProviderAnswer
from providers import Providers
from questions import Completion
from relay import relay
from reply import Reply
from routes.deps import (
    FOLLOWING,
    STREAMED,
    DatabaseDep,
    KeyDep,
    ProvidersDep,
    SettingsDep,
    TurnsDep,
    openai_errors,
)

router = APIRouter(prefix="/v1", tags=["OpenAI"])

CONVERSATION_HEADER = "X-Conversation-Id"
ANSWERED: dict[int | str, dict[str, Any]] = {200: {"model": ProviderAnswer}}
STREAMED_OR_NOT: dict[int | str, dict[str, Any]] = {200: {**STREAMED[200], **ANSWERED[200]}}


@router.post(
    "/chat/completions",
    response_model=None,
    responses={**STREAMED_OR_NOT, **openai_errors()},
    dependencies=[FOLLOWING],
)
async def create_completion(
    request: Request,
    call: OpenAICall,
    db: DatabaseDep,
    turns: TurnsDep,
    providers: ProvidersDep,
    settings: SettingsDep,
    key: KeyDep,
) -> Response:
    """OpenAI's own chat completion, passed through with every field it has.

    With `store`, or with a `metadata.conversation_id`, the exchange is kept as a turn; the answer
    names its conversation in `X-Conversation-Id`. A history that goes on from one that was kept
    continues its conversation.
    """
    conversation_id = _named(call)
    wanted = settings.store_completions if call.store is None else call.store
    if not (wanted or conversation_id):
        return await _passed_through(request, "/chat/completions", call, providers, key)
    # The provider is not asked to keep it too.
    spent = ("store", "metadata")
    kept = {name: value for name, value in call.body().items() if name not in spent}
    _check_messages(kept)
    found = await db.read(_conversation, kept, conversation_id)
    question = Completion(found or str(uuid4()), key, body=kept, is_new=found is None)
    return await _kept_answer(await turns.ask(question), bool(call.stream))


@router.post(
    "/responses",
    response_model=None,
    responses={**STREAMED_OR_NOT, **openai_errors()},
    dependencies=[FOLLOWING],
)
async def create_response(
    request: Request, call: OpenAICall, providers: ProvidersDep, key: KeyDep
) -> Response:
    """OpenAI's Responses call, passed through."""
    return await _passed_through(request, "/responses", call, providers, key)


@router.post(
    "/embeddings",
    response_model=None,
    responses={**ANSWERED, **openai_errors()},
    dependencies=[FOLLOWING],
)
async def create_embeddings(
    request: Request, call: OpenAICall, providers: ProvidersDep, key: KeyDep
) -> Response:
    """OpenAI's embeddings call, passed through."""
    return await _passed_through(request, "/embeddings", call, providers, key)


async def _passed_through(
    request: Request,
    path: str,
    call: OpenAICall,
    providers: Providers,
    key: SecretStr | None,
) -> Response:
    target = providers.resolve(call.model, key)
    return await relay(request, providers.forward(target, path, call.body()))


def _named(call: OpenAICall) -> str | None:
    """The conversation that the metadata name."""
    named = call.metadata.get("conversation_id") if isinstance(call.metadata, dict) else None
    if named is not None and not isinstance(named, str):
        raise Invalid("must be a string", field="metadata.conversation_id")
    return named or None


def _check_messages(body: dict[str, Any]) -> None:
    messages = body.get("messages")
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages)
    ):
        raise Invalid("must be a list of messages, each with its role", field="messages")


def _conversation(session: Session, body: dict[str, Any], named: str | None) -> str | None:
    """The conversation to keep the exchange in: the one named, else one that it continues."""
    if named is not None:
        return require(session, Conversation, named).id
    return memory.place(session, *memory.read(body["messages"]), None).conversation_id


async def _kept_answer(reply: Reply, streamed: bool) -> Response:
    headers = {**reply.headers, CONVERSATION_HEADER: reply.conversation_id}
    if streamed:
        return events.stream(events.openai_events(reply), headers)
    outcome = await reply.finished()
    if outcome.error is not None:
        raise UpstreamError(outcome.error, status=outcome.error_status, headers=headers)
    if outcome.status != "complete":
        raise UpstreamError(
            "The reply was stopped; its conversation keeps what there is of it", status=409
        )
    return Response(b"".join(reply.raw or []), headers=headers, media_type="application/json")
