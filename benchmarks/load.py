"""The client: raw connections that keep what arrives and when, and read it only afterwards."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.processes import HOST

SPOKEN = re.compile(rb'"content": ?"[^"]')
STAMP = re.compile(rb"@(\d+\.\d{6}) ")
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.I)
CHUNKED_END = b"\r\n0\r\n\r\n"


@dataclass(slots=True)
class Answer:
    """What came back: its bytes as they came, and three moments."""

    started: float
    first: float = 0.0  # when the first token was there
    ended: float = 0.0
    received: list[bytes] = field(default_factory=list)
    # Of tokens that tell when they were sent: when, and how long they were under way.
    stamps: list[tuple[float, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    @property
    def status(self) -> int:
        return int(self.received[0][9:12])

    def body(self) -> bytes:
        head, _, rest = b"".join(self.received).partition(b"\r\n\r\n")
        return rest if LENGTH.search(head) else b"".join(_unchunked(rest))

    def json(self) -> Any:
        return json.loads(self.body())

    def text(self) -> str:
        """What a streamed reply says, whether the service's or an upstream's."""
        events = self.body().removeprefix(b"data: ").split(b"\n\ndata: ")
        return "".join(_said(json.loads(event)) for event in events[:-1])


def _unchunked(data: bytes) -> Iterator[bytes]:
    at = 0
    while True:
        end = data.index(b"\r\n", at)
        length = int(data[at:end], 16)
        if not length:
            return
        yield data[end + 2 : end + 2 + length]
        at = end + 4 + length


def _said(event: dict[str, Any]) -> str:
    if "choices" not in event:
        return str(event["content"])
    return "".join(choice["delta"].get("content", "") for choice in event["choices"])


class Connection(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self) -> None:
        self._answer = Answer(0.0)
        self._done: asyncio.Future[Answer] | None = None
        self._length: int | None = None
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done and not self._done.done():
            self._done.set_exception(ConnectionError("hung up in the middle of an answer"))

    def ask(self, request: bytes) -> "asyncio.Future[Answer]":
        self._done = asyncio.get_running_loop().create_future()
        self._tail, self._length = b"", None
        self._answer = Answer(time.monotonic())
        if self._transport.is_closing():
            self._done.set_exception(ConnectionError("hung up before it was asked"))
        self._transport.write(request)
        return self._done

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        moment = time.monotonic()
        answer, done = self._answer, self._done
        if not answer.received and (length := LENGTH.search(data)):
            self._length = data.index(b"\r\n\r\n") + 4 + int(length[1])
        answer.received.append(data)
        if not answer.first and SPOKEN.search(data):
            answer.first = moment
        if b"@" in data:
            for stamp in STAMP.findall(data):
                sent = float(stamp)
                answer.stamps.append((sent, moment - sent))
        self._tail = (self._tail + data[-len(CHUNKED_END) :])[-len(CHUNKED_END) :]
        if self._length is not None:
            self._length -= len(data)
        if done and (self._length == 0 or (self._length is None and self._tail == CHUNKED_END)):
            answer.ended = moment
            done.set_result(answer)


async def connect(port: int) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, HOST, port)
    return connection


async def ask_anew(port: int, data: bytes) -> Answer:
    """On a connection of its own, the making of which counts too."""
    started = time.monotonic()
    connection = await connect(port)
    answer = await connection.ask(data)
    connection.close()
    answer.started = started
    return answer


def request(method: str, path: str, body: object = None) -> bytes:
    data = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer sk-benchmark\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data
