"""Two hundred turns at once, a hundred writers at once: nothing is lost, refused, slow or large."""

import asyncio
import json
import socket
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import pytest

from tests.conftest import stream
from tests.process import Process, environment, run
from tests.upstream import Upstream, flowing

pytestmark = pytest.mark.long

TURNS = 200
# Each reply grows to 50,000 characters, 150 kB, in ten seconds.
SIZE, COUNT, PAUSE = 500, 100, 0.1
FLOW = f"flow:{SIZE}:{COUNT}:{PAUSE}"
MOST_GROWTH = 150_000_000


class Reading:
    """One streamed answer, read over a socket of its own; a slow one until told to go on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def begin(
        cls, service: Process, request: str, body: Any = None, *, slow: bool = False
    ) -> "Reading":
        """Send the request as HTTP/1.0, whose answer is as it is and ends with the connection."""
        url = service.client.base_url
        sock = socket.socket()
        sock.setblocking(False)
        if slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        await asyncio.get_running_loop().sock_connect(sock, (url.host, url.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1024 if slow else 2**20)
        data = b"" if body is None else json.dumps(body).encode()
        head = [f"{request} HTTP/1.0", f"Host: {url.host}", f"Content-Length: {len(data)}"]
        head.append("Content-Type: application/json")
        writer.write("\r\n".join([*head, "", ""]).encode() + data)
        assert b" 200 " in await reader.readline()
        await reader.readuntil(b"\r\n\r\n")
        return cls(reader, writer)

    async def first(self) -> dict[str, Any]:
        data = await self._reader.readuntil(b"\n\n")
        event: dict[str, Any] = json.loads(data.removeprefix(b"data: "))
        return event

    async def text(self) -> str:
        """The text of all that is left to read; it must end well."""
        data = await self._reader.read()
        self._writer.close()
        *events, done = [line for line in data.split(b"\n") if line.startswith(b"data:")]
        assert done == b"data: [DONE]"
        return "".join(json.loads(event.removeprefix(b"data:"))["content"] for event in events)


async def read_twice(service: Process, number: int, chat: str, all_read: asyncio.Barrier) -> str:
    """One turn with two readers, of which one reads nothing before all others have read all."""
    body = {"role": "user", "content": f"turn {number}", "stream": True}
    fast = await Reading.begin(service, f"POST /v1/chat/conversations/{chat}/messages", body)
    reply_id = (await fast.first())["assistant_message_id"]
    slow = await Reading.begin(service, f"GET /v1/chat/messages/{reply_id}/stream", slow=True)
    text = await fast.text()
    assert text == "".join(flowing(f"turn {number}", SIZE, COUNT))
    await all_read.wait()
    assert await slow.text() == text
    return text


async def time_others(service: Process, chat: str, rest: asyncio.Future[Any]) -> list[float]:
    """How long other requests take while the rest goes on."""
    times = []
    async with httpx2.AsyncClient(base_url=service.client.base_url, trust_env=False) as client:
        while not rest.done():
            for path in ("/health", f"/v1/chat/conversations/{chat}/messages"):
                started = time.monotonic()
                assert (await client.get(path)).status_code == 200
                times.append(time.monotonic() - started)
            await asyncio.sleep(0.05)
    return times


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_two_hundred_turns_are_kept_and_read_in_bounded_memory(
    tmp_path: Path, upstream: Upstream
) -> None:
    async def read_all(chats: list[str]) -> tuple[list[str], list[float]]:
        all_read = asyncio.Barrier(TURNS)
        turns = (read_twice(service, n, chat, all_read) for n, chat in enumerate(chats))
        reading = asyncio.gather(*turns)
        times = await time_others(service, chats[0], reading)
        return await reading, times

    room = {"MAX_TURNS": str(TURNS), "MAX_FOLLOWERS": str(2 * TURNS), "CLIENT_TIMEOUT": "300"}
    with run(environment(tmp_path, upstream) | room, dev=False) as service:
        service.client.say(service.client.create(model="hello"), "hi")
        chats = [service.client.create(model=FLOW) for _ in range(TURNS)]
        idle = service.most_memory()
        texts, times = asyncio.run(read_all(chats))
        growth = service.most_memory() - idle
        for chat, text in zip(chats, texts, strict=True):
            reply = service.client.history(chat)[-1]
            assert (reply["status"], reply["content"]) == ("complete", text)
    print(f"idle {idle / 1e6:.0f} MB, growth {growth / 1e6:.0f} MB")
    print(f"{len(times)} others: median {median(times):.3f} s, longest {max(times):.3f} s")
    assert growth < MOST_GROWTH
    assert median(times) < 0.1


def test_a_hundred_writers_at_once_are_all_served(tmp_path: Path, upstream: Upstream) -> None:
    async def write(client: httpx2.AsyncClient, number: int) -> list[int]:
        created = await client.post("/v1/chat/conversations", json={"name": f"{number}"})
        path = f"/v1/chat/conversations/{created.json()['conversation_id']}/messages"
        bodies = [{"role": "system", "content": f"{number}.{n}"} for n in range(5)]
        answers = [await client.post(path, json=body) for body in bodies]
        history = (await client.get(path)).json()["messages"]
        assert [message["content"] for message in history] == [b["content"] for b in bodies]
        return [answer.status_code for answer in (created, *answers)]

    async def write_all() -> list[list[int]]:
        url = service.client.base_url
        async with httpx2.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
            return await asyncio.gather(*(write(client, number) for number in range(100)))

    with run(environment(tmp_path, upstream)) as service:
        chat = service.client.create(model="words:100000:0.001")
        with stream(service.client, chat) as events:
            session = events.next()["session_id"]
            statuses = asyncio.run(write_all())
            service.client.post("/v1/chat/stop-stream", json={"session_id": session})
    assert statuses == [[200] * 6] * 100
    assert "locked" not in "".join(service.log)


def test_a_stop_reaches_the_upstream_at_once(tmp_path: Path, upstream: Upstream) -> None:
    times = []
    with run(environment(tmp_path, upstream), dev=False) as service:
        for number in range(20):
            with stream(service.client, service.client.create(model="stall")) as events:
                session = events.next()["session_id"]
                while events.text != "two words":
                    events.next()
                started = time.monotonic()
                service.client.post("/v1/chat/stop-stream", json={"session_id": session})
                assert upstream.calls[number].hung_up.wait(10)
                times.append(time.monotonic() - started)
    print(f"median {median(times):.4f} s, longest {max(times):.4f} s")
    assert median(times) < 0.25
