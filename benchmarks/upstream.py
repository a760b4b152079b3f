"""A scripted upstream that is not the limit: all that can be prepared is.

The model's name says what comes: `tokens-200` is 200 tokens as fast as they are taken, `paced-400`
is 400 tokens, 50 a second, each of which tells when it was sent. `GET /bytes/1000` answers with
1000 bytes that lay ready: what a list would cost if there were nothing to do for it.

    python -m benchmarks.upstream PORT
"""

import asyncio
import gc
import json
import re
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice

# One write carries this many tokens, where they come as fast as they are taken.
BLOCK = 10
TOKENS_A_SECOND = 50
# Streams at a pace take their turns in slots, one a millisecond: one timer serves them all.
SLOTS = 1000 // TOKENS_A_SECOND
WORDS = ("The ", "quick ", "brown ", "fox ", "jumps ", "over ", "你好", ", ", "lazy ", "dog. ")

MODEL = re.compile(rb'"model": ?"(tokens|paced)-(\d+)"')
STREAM = re.compile(rb'"stream": ?true')
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.I)
BYTES = re.compile(rb"GET /bytes/(\d+) ")

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    b"connection: keep-alive\r\n\r\n"
)
USAGE = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}


def framed(data: bytes) -> bytes:
    """One chunk of HTTP's chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(delta: dict[str, str], reason: str | None = None) -> bytes:
    """One token as OpenAI sends it, a chunk of its own."""
    data = {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion.chunk",
        "created": 1767225600,
        "model": "benchmark",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
    }
    return framed(b"data: %b\n\n" % json.dumps(data, ensure_ascii=False).encode())


def text(tokens: int) -> str:
    """What a reply of so many tokens says."""
    return "".join(islice(cycle(WORDS), tokens))


FIRST = HEAD + event({"role": "assistant", "content": ""})
SPOKEN = [event({"content": word}) for word in WORDS]
WHOLE_BLOCK = b"".join(SPOKEN)
LAST = (
    event({}, "stop")
    + framed(b"data: %b\n\n" % json.dumps({"choices": [], "usage": USAGE}).encode())
    + framed(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


def answer(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def completion(tokens: int) -> bytes:
    """A reply that is not streamed."""
    message = {"role": "assistant", "content": text(tokens)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    data = {"object": "chat.completion", "choices": [choice], "usage": USAGE}
    return answer(json.dumps(data, ensure_ascii=False).encode())


class Wheel:
    """Sends a token to each of its streams 50 times a second; only the stamp is made anew."""

    def __init__(self) -> None:
        self._slots: list[dict[Line, int]] = [{} for _ in range(SLOTS)]
        self._added = 0
        self._tick = 0
        self._started = 0.0

    def start(self) -> None:
        self._started = asyncio.get_running_loop().time()
        self._turn()

    def add(self, line: "Line", tokens: int) -> None:
        self._added += 1
        # Neighbours in time are put far apart, so that a ramp does not fill one slot.
        self._slots[self._added * 7 % SLOTS][line] = tokens

    def remove(self, line: "Line") -> None:
        for slot in self._slots:
            slot.pop(line, None)

    def _turn(self) -> None:
        slot = self._slots[self._tick % SLOTS]
        if slot:
            token = event({"content": f"@{time.monotonic():.6f} "})
            for line, left in list(slot.items()):
                line.write(token)
                slot[line] = left - 1
                if left == 1:
                    del slot[line]
                    line.write(LAST)
        self._tick += 1
        due = self._started + self._tick / (SLOTS * TOKENS_A_SECOND)
        asyncio.get_running_loop().call_at(due, self._turn)


class Line(asyncio.Protocol):
    """A connection: one request after another."""

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel
        self._received = b""
        self._left = 0
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.write: Callable[[bytes], None] = transport.write

    def connection_lost(self, exc: Exception | None) -> None:
        self._left = 0
        self._wheel.remove(self)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if end and len(body) >= (int(length[1]) if length else 0):
            self._received = b""
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if wanted := BYTES.match(head):
            self.write(answer(b" " * int(wanted[1])))
            return
        model = MODEL.search(body)
        if model is None:
            self.write(answer(b'{"object": "list", "data": []}'))
            return
        kind, tokens = model[1], int(model[2])
        if kind == b"paced":
            self.write(FIRST)
            self._wheel.add(self, tokens)
        elif STREAM.search(body):
            self.write(FIRST)
            self._left = tokens
            self._pump()
        else:
            self.write(completion(tokens))

    def _pump(self) -> None:
        """Write a block, then let the others have their turn."""
        if not self._left:
            return
        count = min(self._left, BLOCK)
        self._left -= count
        self.write(WHOLE_BLOCK if count == BLOCK else b"".join(SPOKEN[:count]))
        if not self._left:
            self.write(LAST)
        elif not self._paused:
            asyncio.get_running_loop().call_soon(self._pump)


async def serve(port: int) -> None:
    wheel = Wheel()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Line(wheel), "127.0.0.1", port, backlog=2000)
    wheel.start()
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
