"""A thousand turns and ten thousand reads: afterwards the service is as it was before."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Set
from itertools import cycle
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from db import READERS
from main import create_app, server
from tests.conftest import make_settings, wait_until
from tests.process import environment, run
from tests.upstream import Upstream

TURNS, READS, AT_ONCE = 1000, 10_000, 16
MOST_GROWTH = 10_000_000
CHATS = 100


class Visitor:
    """Somebody who chats and reads, many things at once."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self.client = client
        self._chats: list[str] = []

    async def arrive(self) -> None:
        for number in range(CHATS):
            body = {"name": f"{number}"}
            async with self.client.post("/v1/chat/conversations", json=body) as answer:
                self._chats.append((await answer.json())["conversation_id"])

    async def talk(self, count: int) -> None:
        """Turns in all chats in turn, streamed or not; some readers leave in the middle."""
        turns = iter(range(count))

        async def some(chats: list[str]) -> None:
            for chat, number in zip(cycle(chats), turns, strict=False):
                await self._say(chat, number)

        await asyncio.gather(*(some(self._chats[n::AT_ONCE]) for n in range(AT_ONCE)))

    async def read(self, count: int) -> None:
        one = f"/v1/chat/conversations/{self._chats[0]}"
        lists = ["/v1/chat/conversations?limit=5", "/v1/projects", "/v1/search?q=turn1"]
        paths = [f"{one}/messages", one, *lists, "/health", "/nowhere"]
        reads = iter(range(count))

        async def some() -> None:
            for path, _ in zip(cycle(paths), reads, strict=False):
                async with self.client.get(path) as answer:
                    assert answer.status in (200, 404)
                    await answer.read()

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))

    async def _say(self, chat: str, number: int) -> None:
        streamed = bool(number % 2)
        text = f"turn{number}"
        body = {"role": "user", "content": text, "model": "echo", "stream": streamed}
        path = f"/v1/chat/conversations/{chat}/messages"
        async with self.client.post(path, json=body) as answer:
            assert answer.status == 200
            if number % 10 != 1:
                assert text in await answer.text()
            # Otherwise leave when the answer has begun.


def visit(url: object, doing: Callable[[Visitor], Awaitable[None]]) -> None:
    async def visiting() -> None:
        async with aiohttp.ClientSession(str(url)) as client:
            visitor = Visitor(client)
            await visitor.arrive()
            await doing(visitor)

    asyncio.run(visiting())


async def warm_up(visitor: Visitor) -> None:
    await visitor.talk(TURNS // 4)
    await visitor.read(READS // 10)


async def go_on(visitor: Visitor) -> None:
    await visitor.talk(TURNS)
    await visitor.read(READS)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="memory and descriptors are read from /proc")
def test_a_thousand_turns_and_ten_thousand_reads_leave_nothing_behind(tmp_path: Path) -> None:
    with run(environment(tmp_path), dev=False) as service:
        visit(service.client.base_url, warm_up)
        wait_until(lambda: service.sockets() == 3)
        before = service.memory(), len(service.descriptors()), service.threads()
        visit(service.client.base_url, go_on)
        wait_until(lambda: len(service.descriptors()) == before[1])
        after = service.memory(), len(service.descriptors()), service.threads()
    print(f"memory, descriptors, threads: {before}, then {after}")
    assert after[0] - before[0] < MOST_GROWTH
    assert after[1] == before[1]
    assert after[2] - before[2] <= READERS
    assert "Traceback" not in "".join(service.log)


def test_turns_and_readers_leave_no_task_behind(tmp_path: Path, upstream: Upstream) -> None:
    async def tasks_left() -> set[str]:
        running = server(create_app(settings), settings)
        started = asyncio.Event()
        running.config.callback_notify = told(started)
        serving = asyncio.create_task(running.serve())
        await started.wait()
        url = f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
        async with aiohttp.ClientSession(url) as client:
            visitor = Visitor(client)
            await visitor.arrive()
            await visitor.talk(2)
        before = await settled()
        async with aiohttp.ClientSession(url) as client:
            visitor.client = client
            await visitor.talk(100)
            await leave_in_the_middle(client)
        left = await settled(before)
        running.should_exit = True
        await serving
        return {str(task) for task in left}

    settings = make_settings(tmp_path, upstream)
    assert asyncio.run(tasks_left()) == set()


def told(started: asyncio.Event) -> Callable[[], Awaitable[None]]:
    async def notify() -> None:
        started.set()

    return notify


async def leave_in_the_middle(client: aiohttp.ClientSession) -> None:
    """Of a call that is passed through, and of one that has not been answered."""
    call: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    path = "/v1/chat/completions"
    for model in ("words:20:0.01", "stall"):
        async with client.post(path, json={**call, "model": model}) as answer:
            await answer.content.readline()
    impatient = aiohttp.ClientTimeout(0.2)
    with pytest.raises(TimeoutError):
        await client.post(path, json={**call, "model": "silent"}, timeout=impatient)


async def settled(known: Set[asyncio.Task[Any]] = frozenset()) -> Set[asyncio.Task[Any]]:
    """The tasks there are beside the known ones, once they have had time to end."""
    left: Set[asyncio.Task[Any]] = frozenset()
    for _ in range(100):
        left = asyncio.all_tasks() - known - {asyncio.current_task()}
        if known and not left:
            break
        await asyncio.sleep(0.01)
    return left
