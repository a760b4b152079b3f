"""A call of OpenAI's API passed through: what comes back goes on as it is, byte for byte.

Nothing of it belongs to the service, so here a caller who leaves takes the call with him.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import anyio
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from errors import ServiceError, UpstreamError, with_openai_error
from providers import Answer

T = TypeVar("T")
# What nginx calls it when nobody is there to be answered.
CLIENT_LEFT = 499


async def relay(request: Request, call: Coroutine[Any, Any, Answer]) -> Response:
    """Make the call and pass its answer on, streamed where it is a stream."""
    answer = await _unless_left(request, call)
    if answer.media_type == "text/event-stream":
        return _Stream(answer)
    body = await _unless_left(request, _read(answer))
    return Response(body, answer.status, dict(answer.headers), answer.media_type or None)


def error_event(error: ServiceError) -> bytes:
    """A failure inside a stream, as clients of OpenAI's API read it."""
    body = with_openai_error(error.status, {"detail": error.detail})
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


class _Stream(StreamingResponse):
    """An event stream passed on; however it ends, and if it never begins, the answer is closed."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(_events(answer), answer.status, dict(answer.headers), answer.media_type)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # The caller may have left: its cancellation must not keep us from hanging up too.
            with anyio.CancelScope(shield=True):
                await self._answer.aclose()


async def _events(answer: Answer) -> AsyncIterator[bytes]:
    """The answer's bytes, line by line: a line that is cut off would hide the error after it."""
    end, line = b"\n\n", list[bytes]()
    try:
        async for chunk in answer:
            whole = chunk.rfind(b"\n") + 1
            if whole:
                lines = b"".join([*line, chunk[:whole]])
                yield lines
                end, line = (end + lines[-2:])[-2:], []
            line.append(chunk[whole:])
        if rest := b"".join(line):
            yield rest
    except UpstreamError as error:
        yield (b"" if end == b"\n\n" else b"\n\n") + error_event(error)


async def _read(answer: Answer) -> bytes:
    try:
        return b"".join([chunk async for chunk in answer])
    finally:
        await answer.aclose()


async def _unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; cancelled when the caller hangs up."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ServiceError("The caller has left", status=CLIENT_LEFT)
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
