"""A scripted OpenAI-compatible server on a real socket: the model's name chooses what it does.

`name:argument:argument`, see `SCRIPTS`. It remembers what it was asked and whether the caller hung
up. It speaks HTTP by hand: the faults it plays are below what a framework would let through.
"""

import asyncio
import base64
import json
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


@dataclass
class Call:
    """One request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    hung_up: threading.Event = field(default_factory=threading.Event)


@dataclass
class Line:
    """An open connection: what a script writes to."""

    upstream: "Upstream"
    call: Call
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def say(self, text: str, **delta: Any) -> None:
        await self.send(chunk({"content": text, **delta}))

    async def end(self, reason: str | None = "stop") -> None:
        await self.send(chunk({}, reason) + event({"choices": [], "usage": USAGE}) + DONE)


def event(data: Any) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def chunk(delta: Any, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return event({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})


Script = Callable[..., Awaitable[None]]
SCRIPTS: dict[str, Script] = {}


def script(function: Script) -> Script:
    SCRIPTS[function.__name__.replace("_", "-")] = function
    return function


@script
async def hello(line: Line) -> None:
    """A short reply, well told."""
    await line.send(HEAD)
    for word in ("你好", ", ", "world", "!"):
        await line.say(word)
    await line.end()


@script
async def repeat(line: Line) -> None:
    """The last message's text, in one piece."""
    await line.send(HEAD)
    await line.say(str(line.call.body["messages"][-1]["content"]))
    await line.end()


@script
async def words(line: Line, count: str, pause: str = "0") -> None:
    """`count` words, `pause` seconds apart."""
    await line.send(HEAD)
    for number in range(int(count)):
        await line.say(f"w{number} ")
        await asyncio.sleep(float(pause))
    await line.end()


@script
async def flow(line: Line, size: str, count: str, pause: str) -> None:
    """`count` pieces of `size` characters, made of the last message, `pause` seconds apart."""
    await line.send(HEAD)
    for piece in flowing(line.call.body["messages"][-1]["content"], int(size), int(count)):
        await line.say(piece)
        await asyncio.sleep(float(pause))
    await line.end()


def flowing(content: str, size: int, count: int) -> list[str]:
    return [f"{content}, {number}: 字".ljust(size, "…") for number in range(count)]


@script
async def gate(line: Line, before: str = "3") -> None:
    """Some words, then the rest once the test opens the gate."""
    await line.send(HEAD)
    for number in range(int(before)):
        await line.say(f"w{number} ")
    await line.upstream.opened.wait()
    await line.say("rest")
    await line.end()


@script
async def hold(line: Line) -> None:
    """Not even headers until the test opens the gate."""
    await line.upstream.opened.wait()
    await hello(line)


@script
async def stall(line: Line) -> None:
    """Two words, then silence."""
    await line.send(HEAD)
    await line.say("two ")
    await line.say("words")
    await asyncio.Event().wait()


@script
async def stall_at_once(line: Line) -> None:
    """Headers, then silence."""
    await line.send(HEAD)
    await asyncio.Event().wait()


@script
async def cut_after_finish(line: Line) -> None:
    """Torn when the text was whole and only the usage was missing."""
    await line.send(HEAD.replace(b"connection: close", b"content-length: 100000"))
    await line.say("text")
    await line.send(chunk({}, "stop"))


@script
async def crlf(line: Line) -> None:
    """Lines that end as the standard also allows, and comments between them."""
    await line.send(HEAD + b": hello\r\n\r\n")
    await line.send((chunk({"content": "text"}) + chunk({}, "stop") + DONE).replace(b"\n", b"\r\n"))


@script
async def terse(line: Line) -> None:
    """Events without the blank that the standard allows after the colon, all in one go."""
    events = chunk({"content": "text"}) + chunk({}, "stop") + DONE
    await line.send(HEAD + events.replace(b"data: ", b"data:"))


@script
async def used(line: Line, *usage: str) -> None:
    """A reply, and what it used: this JSON (colons in it are safe)."""
    await line.send(HEAD)
    await line.say("text")
    told = event({"choices": [], "usage": json.loads(":".join(usage))})
    await line.send(chunk({}, "stop") + told + DONE)


@script
async def short(line: Line, reason: str) -> None:
    """A reply that ends before it is whole, and says why."""
    await line.send(HEAD)
    await line.say("half a text")
    await line.end(reason)


@script
async def mumble(line: Line, status: str) -> None:
    """A refusal that breaks off."""
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n"
    await line.send(head.encode() + b'{"error": {"mess')


@script
async def silent(line: Line) -> None:
    """Nothing, ever."""
    await asyncio.Event().wait()


@script
async def cut(line: Line, where: str) -> None:
    """The connection is torn: before the headers, after them, in the text or inside a character."""
    if where == "before-headers":
        return
    # A promised length that is not kept is how a reader knows that it was cut.
    await line.send(HEAD.replace(b"connection: close", b"content-length: 100000"))
    if where == "in-text":
        await line.say("half a ")
    if where == "in-character":
        whole = chunk({"content": "half a 字"})
        await line.send(chunk({"content": "half a "}) + whole[: whole.index("字".encode()) + 1])


@script
async def raw(line: Line, *lines: str) -> None:
    """A word, these events as they are (colons in them are safe), then an orderly end."""
    await line.send(HEAD)
    await line.say("text")
    await line.send(b"".join(f"{data}\n\n".encode() for data in ":".join(lines).split("|")))
    await line.end()


@script
async def bad_utf8(line: Line) -> None:
    await line.send(HEAD)
    await line.say("text")
    await line.send(chunk({"content": "X"}).replace(b"X", b"\xff\xfe"))
    await line.end()


@script
async def no_done(line: Line) -> None:
    await line.send(HEAD)
    await line.say("text")
    await line.send(chunk({}, "stop"))


@script
async def no_finish(line: Line) -> None:
    await line.send(HEAD)
    await line.say("text")
    await line.send(DONE)


@script
async def thinking(line: Line, form: str, size: str) -> None:
    """Poe's placeholders before an answer, cut into pieces of `size` characters."""
    before = {
        "elapsed": "Thinking... (1s elapsed)Thinking... (2s elapsed)",
        "quoted": "*Thinking...*\n\n> first thought\n> second\n\n",
        "none": "Thinking... is what ",
    }[form]
    text = f"{before}the answer says: Thinking... (3s elapsed)"
    await line.send(HEAD)
    for start in range(0, len(text), int(size)):
        await line.say(text[start : start + int(size)])
    await line.end()


@script
async def reasoning(line: Line, *fields: str) -> None:
    """A thought, in the fields named, then an answer."""
    await line.send(HEAD)
    await line.send(chunk(dict.fromkeys(fields, "hm, ")))
    await line.send(chunk(dict.fromkeys(fields, "yes")))
    await line.say("answer")
    await line.end()


@script
async def whole(line: Line) -> None:
    """An answer that ignores `stream` and comes as one JSON object."""
    message = {"role": "assistant", "content": "all at once"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    await respond(line, 200, {"choices": [choice], "usage": USAGE})


@script
async def refuse(line: Line, status: str, retry_after: str = "", code: str = "") -> None:
    """An error of this status, which quotes the caller's key."""
    message = f"No: {line.call.headers['authorization']}"
    error = {"message": message, "type": "x", "code": code or None}
    headers = {"retry-after": retry_after} if retry_after else {}
    await respond(line, int(status), {"error": error}, headers)


@script
async def quote(line: Line, where: str) -> None:
    """The caller's key, wherever an answer may have it."""
    key = line.call.headers["authorization"].partition(" ")[2]
    told = chunk({"content": f"your key is {key}, is it not?"})
    if where == "whole":
        message = {"role": "assistant", "content": key}
        await respond(line, 200, {"choices": [{"message": message, "finish_reason": "stop"}]})
        return
    header = f"x-request-id: {key}\r\nconnection".encode()
    await line.send(HEAD.replace(b"connection", header))
    if where == "cut":
        middle = told.index(key.encode()) + len(key) // 2
        await line.send(told[:middle])
        await asyncio.sleep(0.05)
        await line.send(told[middle:])
    else:
        await line.send(told)
    if where == "error":
        await line.send(event({"error": {"message": f"No: {key}", "code": 401}}))
    await line.end()


@script
async def deep(line: Line, where: str) -> None:
    """JSON nested deeper than it can be read, in place of a chunk, an answer or a refusal."""
    nested = b"[" * 100_000 + b"]" * 100_000
    if where == "stream":
        await line.send(HEAD)
        await line.say("text")
        await line.send(b"data: " + nested + b"\n\n")
        await line.end()
        return
    status = b"200 OK" if where == "whole" else b"400 Bad Request"
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
    await line.send(head % status + b'{"error": %s}' % nested)


@script
async def endless(line: Line, kind: str) -> None:
    """One line, or one event, or one JSON text, that never ends."""
    head = HEAD.replace(b"text/event-stream", b"application/json") if kind == "json" else HEAD
    await line.send(head)
    piece = b"data: x\n" * 8192 if kind == "event" else b"x" * 65_536
    with suppress(ConnectionError):
        while True:
            await line.send(piece)
    await asyncio.Event().wait()


@script
async def plain(line: Line) -> None:
    """Knows nothing of `stream_options` and says so."""
    if "stream_options" in line.call.body:
        await respond(line, 400, {"error": {"message": "Unknown field: stream_options"}})
    else:
        await hello(line)


@script
async def cramped(line: Line, limit: str, way: str = "code") -> None:
    """Takes no more than `limit` characters of messages."""
    texts = (message["content"] for message in line.call.body["messages"])
    if sum(map(len, texts)) <= int(limit):
        await hello(line)
    elif way == "413":
        await respond(line, 413, {"error": {"message": "Too large"}})
    else:
        code = "context_length_exceeded"
        await respond(line, 400, {"error": {"message": "Too long", "code": code}})


@script
async def flaky(line: Line, status: str, times: str) -> None:
    """Refuses this many times, then answers."""
    asked = sum(call.body == line.call.body for call in line.upstream.calls)
    await (refuse(line, status) if asked <= int(times) else hello(line))


@script
async def redirect(line: Line) -> None:
    await respond(line, 307, {}, {"location": f"{line.upstream.url}/elsewhere"})


@script
async def html(line: Line, status: str = "200") -> None:
    await respond(line, int(status), "<html><body>Not an API</body></html>")


@script
async def big(line: Line, size: str, count: str) -> None:
    """`count` pieces of `size` characters."""
    await line.send(HEAD)
    for _ in range(int(count)):
        await line.say("x" * int(size))
    await line.end()


TELLING = b"x-request-id: req-1\r\nx-ratelimit-remaining-requests: 7\r\nx-secret: no\r\n"
TOOL_CALL = {"id": "call-1", "type": "function", "function": {"name": "now", "arguments": ""}}


@script
async def tool(line: Line) -> None:
    """A tool call in pieces, or, once the tool has answered, a sentence."""
    await line.send(HEAD.replace(b"connection", TELLING + b"connection"))
    if line.call.body["messages"][-1]["role"] == "tool":
        await line.say("It is noon.")
        await line.end()
        return
    await line.send(
        chunk({"role": "assistant", "content": None, "tool_calls": [{"index": 0, **TOOL_CALL}]})
    )
    for piece in ('{"zone', '": "UTC"}'):
        call = {"index": 0, "function": {"arguments": piece}}
        await line.send(chunk({"tool_calls": [call]}))
    await line.end("tool_calls")


@script
async def rich(line: Line, kind: str) -> None:
    """Everything a chunk may hold, known and unknown, one kind at a time."""
    deltas: dict[str, Any] = {
        "refusal": {"refusal": "I will not"},
        "reasoning": {"reasoning": "hm", "reasoning_content": "hm"},
        "unknown": {"content": "x", "surprise": {"deep": [1, 2.5, None, True, "字"]}},
        "audio": {"audio": {"id": "a", "data": "AA=="}},
        "annotations": {"content": "x", "annotations": [{"type": "url_citation"}]},
    }
    await line.send(HEAD.replace(b"connection", TELLING + b"connection"))
    if kind == "choices":
        two = [{"index": n, "delta": {"content": f"c{n}"}, "finish_reason": None} for n in (1, 0)]
        await line.send(event({"id": "c", "choices": two, "system_fingerprint": "f"}))
    elif kind == "logprobs":
        spoken = {"content": [{"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}]}
        choice = {"index": 0, "delta": {"content": "x"}, "logprobs": spoken, "finish_reason": None}
        await line.send(b": a comment\n\n" + event({"choices": [choice], "usage": None}))
    else:
        await line.send(chunk(deltas[kind]))
    await line.end()


ANSWER = {"id": "c", "created": 1_700_000_000, "model": "m"}
EMPTY: dict[str, Any] = {"refusal": None, "annotations": []}


@script
async def official(line: Line) -> None:
    """Whole answers with every field that OpenAI sends: the count of messages, or a tool call."""
    messages = line.call.body["messages"]
    message = {"role": "assistant", "content": f"{len(messages)} messages", **EMPTY}
    if line.call.body.get("tools") and messages[-1]["role"] != "tool":
        function = {"name": "now", "arguments": '{"zone": "UTC"}'}
        message |= {"content": None, "tool_calls": [{**TOOL_CALL, "function": function}]}
    reason = "tool_calls" if "tool_calls" in message else "stop"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    answer = {**ANSWER, "object": "chat.completion", "choices": [choice], "usage": USAGE}
    await respond(line, 200, answer, {"x-request-id": "req-1"})


@script
async def embedding(line: Line) -> None:
    """Three numbers; as the bytes of floats where the caller asks for those."""
    packed = line.call.body.get("encoding_format") == "base64"
    numbers = [0.5, -1.0, 2.0]
    data = base64.b64encode(struct.pack("<3f", *numbers)).decode() if packed else numbers
    listed = [{"object": "embedding", "index": 0, "embedding": data}]
    await respond(line, 200, {"object": "list", "model": "m", "data": listed, "usage": USAGE})


@script
async def response(line: Line) -> None:
    """An answer of the Responses API, whole or as its named events."""
    part = {"type": "output_text", "text": "hello", "annotations": []}
    said = {"id": "m", "type": "message", "role": "assistant", "content": [part]}
    whole = {"id": "r", "object": "response", "model": "m", "output": [said]}
    if not line.call.body.get("stream"):
        await respond(line, 200, whole)
        return
    await line.send(HEAD)
    for name, fields in (
        ("output_text.delta", {"delta": "hello"}),
        ("completed", {"response": whole}),
    ):
        kind = f"response.{name}"
        await line.send(f"event: {kind}\n".encode() + event({"type": kind, **fields}))


async def models(line: Line) -> None:
    """A list as Poe sends it: times in milliseconds, fields beyond OpenAI's."""
    listed = [
        {"id": "hello", "created": 1_700_000_000_000, "owned_by": "P", "pricing": {"prompt": "1"}},
        {"id": "Other", "created": 1_700_000_000, "pricing": None},
        {"id": "bare"},
    ]
    if line.upstream.lists_models:
        await respond(line, 200, {"object": "list", "data": listed})
    else:
        await respond(line, 500, {"error": {"message": "no list today"}})


async def account(line: Line) -> None:
    """Poe's own account of points: the balance, or a page of rows, the newest first."""
    upstream, address = line.upstream, urlsplit(line.call.path)
    status = upstream.statuses.pop(0) if upstream.statuses else 200
    if status != 200:
        await refuse(line, str(status))
    elif address.path.endswith("/current_balance"):
        await respond(line, 200, upstream.balance)
    elif isinstance(upstream.points, list):
        asked = dict(parse_qsl(address.query))
        ids = [row.get("query_id") if isinstance(row, dict) else None for row in upstream.points]
        start = ids.index(asked["starting_after"]) + 1 if "starting_after" in asked else 0
        page = upstream.points[start : start + int(asked["limit"])]
        has_more = start + len(page) < len(ids)
        await respond(line, 200, {"has_more": has_more, "length": len(page), "data": page})
    else:
        await respond(line, 200, upstream.points)


async def respond(
    line: Line, status: int, body: Any, headers: dict[str, str] | None = None
) -> None:
    kind, data = "application/json", json.dumps(body).encode()
    if isinstance(body, str):
        kind, data = "text/html", body.encode()
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    await line.send("\r\n".join([*lines, "connection: close", "", ""]).encode() + data)


class Upstream:
    """The server, on a thread of its own; use it as a context manager."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.lists_models = True
        # Poe's points: what it tells, and with which statuses it answers (then with 200).
        self.balance: Any = {"current_point_balance": 1500}
        self.points: Any = []
        self.statuses: list[int] = []
        self.url = ""
        self.opened: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> "Upstream":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def open_gate(self) -> None:
        self._loop.call_soon_threadsafe(self.opened.set)

    def let_through(self) -> None:
        """Open the gate for those that wait at it now, not for those that come later."""
        self.open_gate()
        self._loop.call_soon_threadsafe(self.opened.clear)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.opened = asyncio.Event()
        self._lines: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._lines:
            task.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self._lines.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, path, _ = first.split(" ")
        call = Call(method, path, headers, json.loads(body) if body else None)
        self.calls.append(call)
        line = Line(self, call, writer)
        if path.endswith("/models"):
            playing = asyncio.ensure_future(models(line))
        elif "/usage/" in path:
            playing = asyncio.ensure_future(account(line))
        else:
            name, *arguments = call.body["model"].split(":")
            playing = asyncio.ensure_future(SCRIPTS[name](line, *arguments))
        leaving = asyncio.ensure_future(reader.read())
        await asyncio.wait({playing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            call.hung_up.set()
        for task in (playing, leaving):
            task.cancel()
        await asyncio.gather(playing, leaving, return_exceptions=True)
