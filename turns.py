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

from sqlmodel import Session

import saving
from context import shorten
from db import Database
from errors import Conflict, NotFound, ServiceError, StorageError, UpstreamError
from limits import Limit
from models import Message
from providers import Chat, Providers
from questions import Asked, Question
from reply import Outcome, Reply

log = logging.getLogger(__name__)

# Text reaches the file at least every half second: this pause, and what the write itself takes.
SAVE_PAUSE = 0.35
# In characters, thoughts included; far above any model's reply, far below this machine's memory.
LONGEST_REPLY = 128 * 2**20
# An end that cannot be stored (a full disk) is tried again until it can.
STORE_AGAIN_PAUSE = 1.0
FIND_AGAIN_PAUSE, FIND_TRIES = 0.05, 40

STOPPED = Outcome("stopped", finish_reason="stopped")
SHUT_DOWN = Outcome(
    "interrupted", error="The service was shut down before the reply ended", error_status=503
)
BROKEN = Outcome("error", error="Internal error: the service's log says more", error_status=500)


class Turns:
    """The running turns: one for a conversation at most."""

    def __init__(self, db: Database, providers: Providers, limit: Limit) -> None:
        self._db = db
        self._providers = providers
        self._limit = limit
        self._running: dict[str, Reply] = {}
        self._grown = asyncio.Event()
        self._saver: asyncio.Task[None] | None = None
        self._closing = False
        self._warned = False

    async def open(self) -> None:
        """Mark what a crash cut off, and start saving what grows."""
        await self._db.write(saving.repair)
        self._saver = asyncio.create_task(self._save_what_grows())

    async def close(self) -> None:
        """End every turn and wait until each is stored; idempotent."""
        self._closing = True
        replies = list(self._running.values())
        for reply in replies:
            reply.end(SHUT_DOWN)
        await asyncio.gather(*(r.task for r in replies if r.task), return_exceptions=True)
        if self._saver:
            self._saver.cancel()

    async def ask(self, question: Question) -> Reply:
        """Begin a turn; returns once the provider has accepted, raises what it refused with.

        With an idempotency key that has been used, the turn it began is returned instead.
        """
        if self._closing:
            raise ServiceError("The service is shutting down", status=503)
        reply = self._running.get(question.slot)
        if reply is None:
            self._limit.check(len(self._running))
            reply = Reply(question.conversation_id, question.idempotency)
            self._running[question.slot] = reply
            reply.task = asyncio.create_task(self._run(reply, question))
        elif not question.repeats(reply.idempotency):
            reply = await self._asked_before(question, reply)
        await reply.accepted()
        return reply

    async def _asked_before(self, question: Question, running: Reply) -> Reply:
        """The ended turn that the question's key began; Conflict with the running one if none."""
        if row := await self._db.read(question.answered):
            return saving.restored(row)
        raise Conflict(
            "A reply is being written in this conversation: stop it or wait for its end",
            extra={"session_id": running.session_id},
        )

    async def find(self, message_id: int) -> Reply:
        """The reply with this id, running or stored; NotFound where there is none."""
        for _ in range(FIND_TRIES):
            for reply in self._running.values():
                if (reply.table, reply.message_id) == (Message, message_id):
                    return reply
            row = await self._db.read(saving.find, message_id)
            if row.status != "streaming":
                return saving.restored(row)
            # It has begun since we looked; or its end has been committed, and it leaves just now.
            await asyncio.sleep(FIND_AGAIN_PAUSE)
        raise ServiceError("The end of this reply could not be stored", status=503)

    async def stop(self, session_id: str) -> None:
        """End a running reply and wait until it is stored; one that has ended stays as it is."""
        for reply in self._running.values():
            if reply.session_id == session_id:
                reply.end(STOPPED)
                await reply.finished()
                return
        if not await self._db.read(saving.known, session_id):
            raise NotFound("Stream")

    async def stop_conversation(self, conversation_id: str) -> None:
        if reply := self._running.get(conversation_id):
            reply.end(STOPPED)
            await reply.finished()

    async def _run(self, reply: Reply, question: Question) -> None:
        """A turn's whole life; every way out leaves the registry and wakes who waits."""
        outcome = Outcome("error")
        try:
            asked = await self._db.write(question.begin, reply, self._providers)
            if isinstance(asked, Message):
                reply.restore(asked)
            else:
                outcome = question.judge(reply, await self._relay(reply, asked))
                outcome = await self._store_end(question, reply, outcome)
        except Exception as error:
            reply.refusal = error
        finally:
            del self._running[question.slot]
            reply.close(reply.outcome or outcome)

    async def _relay(self, reply: Reply, asked: Asked) -> Outcome:
        """Ask, and let the reply grow until it ends; only in here may the task be cancelled."""
        reply.asking = True
        try:
            if reply.ending:
                return reply.ending
            chat = await self._open(reply, asked)
            async with aclosing(chat):
                reply.headers = chat.headers
                reply.begun.set()
                return await self._read(reply, chat)
        except asyncio.CancelledError:
            outcome = reply.ending or SHUT_DOWN
            if outcome.error and not reply.begun.is_set():
                reply.refusal = ServiceError(outcome.error, status=outcome.error_status)
            return outcome
        except ServiceError as error:
            if not reply.begun.is_set():
                reply.refusal = error
            return _failed(reply, error.detail, error.status)
        except Exception:
            log.exception("A turn failed in an unforeseen way")
            return BROKEN
        finally:
            reply.asking = False

    async def _open(self, reply: Reply, asked: Asked) -> Chat:
        """Ask; once more with the oldest turns left out where all were too long for the model."""
        try:
            return await self._providers.open_chat(asked.target, asked.body, asked.faithful)
        except UpstreamError as error:
            shorter = shorten(asked.body["messages"]) if error.too_long else None
            if shorter is None or asked.faithful:
                raise
            prompt, reply.omitted = shorter
            body = {**asked.body, "messages": prompt}
            return await self._providers.open_chat(asked.target, body, asked.faithful)

    async def _read(self, reply: Reply, chat: Chat) -> Outcome:
        async for delta in chat:
            reply.add(delta)
            self._grown.set()
            if reply.length > LONGEST_REPLY:
                return _failed(reply, "The reply is longer than can be kept", 502)
        if reply.finish_reason is None:
            return _failed(reply, "The upstream ended without finishing the reply", 502)
        return Outcome("complete", reply.finish_reason, reply.usage)

    async def _store_end(self, question: Question, reply: Reply, outcome: Outcome) -> Outcome:
        """Commit the end, and return it; while the file refuses, tell so and try again."""
        while True:
            try:
                await self._db.write(_end, question, reply, outcome)
            except StorageError as error:
                self._warn(error)
                reply.close(Outcome("error", error=error.detail, error_status=error.status))
            except Exception:
                log.exception("The end of reply %d cannot be stored", reply.message_id)
                if outcome == BROKEN:
                    return outcome
                outcome = BROKEN
            else:
                return outcome
            if self._closing:
                return outcome
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
                await self._db.write(saving.save, replies)
            except StorageError as error:
                self._warn(error)
                self._grown.set()
                continue
            except Exception:
                log.exception("Growing replies cannot be stored")
                continue
            self._warned = False
            for reply, length in zip(replies, lengths, strict=True):
                reply.saved = length

    def _warn(self, error: StorageError) -> None:
        """Log that the file refuses: once, not at every try until it takes texts again."""
        if not self._warned:
            log.warning("Replies are not stored yet: %s", error)
        self._warned = True


def _end(session: Session, question: Question, reply: Reply, outcome: Outcome) -> None:
    saving.end(session, reply, outcome)
    question.finish(session, reply, outcome)


def _failed(reply: Reply, error: str, status: int) -> Outcome:
    """Text that came before a failure is kept as `interrupted`; none at all is an `error`."""
    kept = "interrupted" if reply.text() else "error"
    return Outcome(kept, usage=reply.usage, error=error, error_status=status)
