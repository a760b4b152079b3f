"""A turn as server-sent events, framed exactly as existing clients read them.

They split on a blank line, keep blocks that begin with `data:` and stop at `[DONE]`: so LF only,
one `data:` line an event, and nothing before it.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Send

from errors import UpstreamError
from relay import error_event
from reply import Outcome, Piece, Reply

PING_SECONDS = 10
DONE = b"data: [DONE]\n\n"
DONE_ID = "done"
to_json = json.JSONEncoder(ensure_ascii=False).encode
# Legal inside JSON, but line ends to some clients.
LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


class EventStream(EventSourceResponse):
    """Sends events that are framed already.

    The library gives each event a timer and a log line of its own, which cost more than the event;
    here a reader that takes nothing is dropped by its connection (see connections.py).
    """

    async def _stream_response(self, send: Send) -> None:
        head = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **head})
        async with aclosing(self.body_iterator):  # type: ignore[type-var]
            async for data in self.body_iterator:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        async with self._send_lock:
            self.active = False
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def stream(
    events: AsyncIterator[bytes], headers: Mapping[str, str] | None = None
) -> EventSourceResponse:
    """A response that sends these events, with a comment in longer silences."""
    return EventStream(
        events,
        headers=headers,
        sep="\n",
        ping=PING_SECONDS,
        ping_message_factory=lambda: ServerSentEvent(comment="ping"),
    )


async def turn_events(reply: Reply) -> AsyncIterator[bytes]:
    """A turn from its first event, which names its messages, to `[DONE]`."""
    yield first_event(reply)
    async for piece in reply.follow():
        yield piece_event(piece)
    yield final_event(await reply.finished(), **left_out(reply)) + DONE


async def follow_events(reply: Reply, after: int) -> AsyncIterator[bytes]:
    """The same for an `EventSource`, from a position on: each event's id is the position after it.

    `[DONE]` has an id of its own, by which a reader that comes back for more is told of the end.
    """
    position = after
    yield with_id(position, first_event(reply))
    async for piece in reply.follow(after):
        position += 0 if piece.is_reasoning else len(piece.text)
        yield with_id(position, piece_event(piece))
    final = final_event(await reply.finished(), **left_out(reply))
    yield with_id(position, final) + with_id(DONE_ID, DONE)


async def openai_events(reply: Reply) -> AsyncIterator[bytes]:
    """A kept chat completion: the provider's own events, its end told once it is stored."""
    async for data in reply.follow_raw():
        yield data
    outcome = await reply.finished()
    if outcome.error is not None:
        yield error_event(UpstreamError(outcome.error, status=outcome.error_status))
    else:
        yield DONE


def with_id(position: int | str, event: bytes) -> bytes:
    return f"id: {position}\n".encode() + event


def first_event(reply: Reply) -> bytes:
    return event(
        content="",
        user_message_id=reply.user_message_id,
        assistant_message_id=reply.message_id,
        conversation_id=reply.conversation_id,
        session_id=reply.session_id,
    )


def left_out(reply: Reply) -> dict[str, int]:
    return {"omitted": reply.omitted} if reply.omitted else {}


def piece_event(piece: Piece) -> bytes:
    if piece.is_reasoning:
        return event(content="", reasoning=piece.text)
    return event(content=piece.text)


async def stored_events(
    conversation_id: str, message_id: int, reply_id: int | None
) -> AsyncIterator[bytes]:
    """The events of a message that asked nothing: the first, and the end."""
    yield event(
        content="",
        user_message_id=message_id,
        assistant_message_id=reply_id,
        conversation_id=conversation_id,
    )
    yield DONE


def final_event(outcome: Outcome, **more: Any) -> bytes:
    if outcome.error is not None:
        error = {"detail": outcome.error, "status": outcome.error_status}
        return event(content="", finish_reason="error", error=error)
    usage = {"usage": outcome.usage} if outcome.usage else {}
    return event(content="", finish_reason=outcome.finish_reason, **usage, **more)


def event(**fields: Any) -> bytes:
    data = to_json(fields)
    if not data.isascii():
        data = data.translate(LINE_ENDS)
    return f"data: {data}\n\n".encode()
