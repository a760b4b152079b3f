"""A turn: the user's message, and the reply that grows until it ends; and all that are running.

A turn belongs to the service. Its task stores the question and an empty reply, asks the provider,
lets the text grow in memory, and commits the end; who reads along is only a follower with a
position in the text. A client that leaves, or never comes back, changes nothing.

Who cancels whom: only `Reply.end` cancels, only a turn's own task, and only while it waits for the
provider; its storing is never interrupted. `Turns.close` ends every turn and waits until each end
is committed; the service calls it before connections are waited for and the database is closed.
"""

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr
from sqlalchemy import update
from sqlmodel import Session, col, select

import history
from context import Prompt, compose
from db import Database, require
from errors import Conflict, NotFound, ServiceError
from fields import now
from models import Conversation, Document, Message, MessageCreate, Project
from providers import Chat, Providers, Target
from reply import Outcome, Reply

log = logging.getLogger(__name__)

# Text reaches the file at least every half second: this pause, and what the write itself takes.
SAVE_PAUSE = 0.25
# An end that cannot be stored (a full disk) is tried again until it can.
STORE_AGAIN_PAUSE = 1.0

STOPPED = Outcome("stopped", finish_reason="stopped")
SHUT_DOWN = Outcome(
    "interrupted", error="The service was shut down before the reply ended", error_status=503
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a provider is asked."""

    target: Target
    prompt: Prompt
    options: dict[str, Any]


class Turns:
    """The running turns: one for a conversation at most."""

    def __init__(self, db: Database, providers: Providers) -> None:
        self._db = db
        self._providers = providers
        self._running: dict[str, Reply] = {}
        self._grown = asyncio.Event()
        self._saver: asyncio.Task[None] | None = None
        self._closing = False

    async def open(self) -> None:
        """Mark what a crash cut off, and start saving what grows."""
        await self._db.write(_repair)
        self._saver = asyncio.create_task(self._save_what_grows())

    async def close(self) -> None:
        """End every turn and wait until each is stored; idempotent."""
        self._closing = True
        replies = list(self._running.values())
        for reply in replies:
            reply.end(SHUT_DOWN)
        await asyncio.gather(*(reply.task for reply in replies if reply.task))
        if self._saver:
            self._saver.cancel()

    async def ask(
        self, conversation_id: str, body: MessageCreate, bearer: SecretStr | None
    ) -> Reply:
        """Begin a turn; returns once the provider has accepted, raises what it refused with."""
        if self._closing:
            raise ServiceError("The service is shutting down", status=503)
        if running := self._running.get(conversation_id):
            raise Conflict(
                "A reply is being written in this conversation: stop it or wait for its end",
                extra={"session_id": running.session_id},
            )
        reply = self._running[conversation_id] = Reply(conversation_id)
        reply.task = asyncio.create_task(self._run(reply, body, bearer))
        await reply.begun.wait()
        if reply.refusal:
            raise reply.refusal
        return reply

    async def stop(self, session_id: str) -> None:
        """End a running reply and wait until it is stored; one that has ended stays as it is."""
        for reply in self._running.values():
            if reply.session_id == session_id:
                reply.end(STOPPED)
                await reply.finished()
                return
        if not await self._db.read(_known, session_id):
            raise NotFound("Stream")

    async def stop_conversation(self, conversation_id: str) -> None:
        if reply := self._running.get(conversation_id):
            reply.end(STOPPED)
            await reply.finished()

    async def _run(self, reply: Reply, body: MessageCreate, bearer: SecretStr | None) -> None:
        """A turn's whole life; every way out leaves the registry and wakes who waits."""
        try:
            asked = await self._db.write(_begin, reply, body, bearer, self._providers)
        except Exception as error:
            reply.refusal = error
            del self._running[reply.conversation_id]
            reply.close(Outcome("error"))
            return
        outcome = await self._relay(reply, asked)
        await self._store_end(reply, outcome)
        del self._running[reply.conversation_id]
        reply.close(outcome)

    async def _relay(self, reply: Reply, asked: Asked) -> Outcome:
        """Ask, and let the reply grow until it ends; only in here may the task be cancelled."""
        reply.asking = True
        try:
            if reply.ending:
                return reply.ending
            chat = await self._providers.open_chat(asked.target, asked.prompt, asked.options)
            async with aclosing(chat):
                reply.begun.set()
                return await self._read(reply, chat)
        except asyncio.CancelledError:
            return reply.ending or SHUT_DOWN
        except ServiceError as error:
            if not reply.begun.is_set():
                reply.refusal = error
            return _failed(reply, error.detail, error.status)
        except Exception:
            log.exception("A turn failed in an unforeseen way")
            return _failed(reply, "Internal error: the service's log says more", 500)
        finally:
            reply.asking = False

    async def _read(self, reply: Reply, chat: Chat) -> Outcome:
        async for delta in chat:
            reply.add(delta)
            self._grown.set()
        if reply.finish_reason is None:
            return _failed(reply, "The upstream ended without finishing the reply", 502)
        return Outcome("complete", reply.finish_reason, reply.usage)

    async def _store_end(self, reply: Reply, outcome: Outcome) -> None:
        """Commit the end. While that fails its followers are told so, and it is tried again."""
        while True:
            try:
                return await self._db.write(_end, reply, outcome)
            except Exception as error:
                log.exception("The end of reply %d could not be stored", reply.message_id)
                detail = getattr(error, "detail", "The reply could not be stored yet")
                reply.close(
                    Outcome("error", error=detail, error_status=getattr(error, "status", 500))
                )
            if self._closing:
                return None
            await asyncio.sleep(STORE_AGAIN_PAUSE)

    async def _save_what_grows(self) -> None:
        """Write the texts of all replies that grew, in one transaction for all."""
        while True:
            await self._grown.wait()
            self._grown.clear()
            await asyncio.sleep(SAVE_PAUSE)
            replies = [reply for reply in self._running.values() if reply.saved < len(reply.pieces)]
            lengths = [len(reply.pieces) for reply in replies]
            try:
                await self._db.write(_save, replies)
            except Exception:
                log.exception("Growing replies could not be stored; trying again")
                self._grown.set()
                continue
            for reply, length in zip(replies, lengths, strict=True):
                reply.saved = length


def _begin(
    session: Session,
    reply: Reply,
    body: MessageCreate,
    bearer: SecretStr | None,
    providers: Providers,
) -> Asked:
    """Store the question and an empty reply; what the provider is to be asked."""
    conversation = require(session, Conversation, reply.conversation_id)
    project = session.get(Project, conversation.project_id)
    model = body.model or conversation.model or (project.llm_model if project else None)
    target = providers.resolve(model, bearer.get_secret_value() if bearer else None)
    documents = [require(session, Document, document_id) for document_id in body.documents]
    request = body.model_dump(
        include={"documents", "system_prompt_append", "options"}, exclude_defaults=True
    )
    reply.user_message_id = history.append(
        session,
        conversation,
        role="user",
        request=request or None,
        **history.content_columns(body.content),
    )
    branch = history.branch(
        session, reply.user_message_id, Message.role, Message.content, Message.parts
    )
    reply.model = target.model
    reply.message_id = history.append(
        session,
        conversation,
        role="assistant",
        status="streaming",
        provider=target.provider,
        model=target.model,
        session_id=reply.session_id,
    )
    prompt = compose(conversation, documents, body.system_prompt_append, branch)
    return Asked(target, prompt, body.options)


def _save(session: Session, replies: list[Reply]) -> None:
    for reply in replies:
        query = update(Message).where(
            col(Message.id) == reply.message_id, col(Message.status) == "streaming"
        )
        session.execute(query.values(**_texts(reply), updated_at=now()))


def _end(session: Session, reply: Reply, outcome: Outcome) -> None:
    moment = now()
    row = update(Message).where(col(Message.id) == reply.message_id)
    session.execute(
        row.values(
            **_texts(reply),
            status=outcome.status,
            finish_reason=outcome.finish_reason,
            usage=outcome.usage,
            error=outcome.error,
            error_status=outcome.error_status,
            updated_at=moment,
        )
    )
    conversation = update(Conversation).where(col(Conversation.id) == reply.conversation_id)
    session.execute(conversation.values(updated_at=moment))


def _texts(reply: Reply) -> dict[str, str | None]:
    return {"content": reply.text(), "reasoning": reply.text(reasoning=True) or None}


def _failed(reply: Reply, error: str, status: int) -> Outcome:
    """Text that came before a failure is kept as `interrupted`; none at all is an `error`."""
    kept = "interrupted" if reply.text() else "error"
    return Outcome(kept, usage=reply.usage, error=error, error_status=status)


def _repair(session: Session) -> None:
    """No reply outlives the process that was writing it."""
    running = update(Message).where(col(Message.status) == "streaming")
    error = "The service ended before the reply did"
    session.execute(
        running.values(status="interrupted", error=error, error_status=503, updated_at=now())
    )


def _known(session: Session, session_id: str) -> bool:
    query = select(Message.id).where(Message.session_id == session_id)
    return session.exec(query).first() is not None
