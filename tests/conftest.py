"""The service on a real socket, on a real file, against the scripted upstream."""

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

import index
from main import create_app, server
from settings import Settings
from tests.upstream import Upstream

OWN_KEY = "sk-the-services-own-key"


class Client(httpx2.Client):
    """An HTTP client of the service, with the few calls that nearly every test makes."""

    def create(self, **body: Any) -> str:
        """A new conversation's id."""
        answer = self.post("/v1/chat/conversations", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["conversation_id"])

    def say(self, conversation_id: str, content: Any, **body: Any) -> httpx2.Response:
        """A turn, not streamed unless the body says so."""
        path = f"/v1/chat/conversations/{conversation_id}/messages"
        return self.post(path, json={"role": "user", "content": content, **body})

    def history(self, conversation_id: str) -> list[dict[str, Any]]:
        answer = self.get(f"/v1/chat/conversations/{conversation_id}/messages")
        assert answer.status_code == 200, answer.text
        messages: list[dict[str, Any]] = answer.json()["messages"]
        return messages


class Stream:
    """An event stream that is read event by event; `text` is the reply so far."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.text = ""
        self._blocks = _blocks(response)

    def next(self) -> Any:
        """The next event's JSON, or `[DONE]`."""
        return self._read(next(self._blocks))

    def rest(self) -> list[Any]:
        return [self._read(block) for block in self._blocks]

    def _read(self, block: str) -> Any:
        data = block.removeprefix("data: ")
        if data == "[DONE]":
            return data
        event = json.loads(data)
        self.text += event["content"]
        return event


def _blocks(response: httpx2.Response) -> Iterator[str]:
    pending = ""
    for text in response.iter_text():
        *blocks, pending = (pending + text).split("\n\n")
        for block in blocks:
            yield from (line for line in block.split("\n") if line.startswith("data:"))


@contextmanager
def stream(client: Client, chat: str, content: str = "hi", **body: Any) -> Iterator[Stream]:
    path = f"/v1/chat/conversations/{chat}/messages"
    body = {"role": "user", "content": content, "stream": True, **body}
    with client.stream("POST", path, json=body) as response:
        assert response.status_code == 200, response.read()
        yield Stream(response)


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Return once the condition holds; fail if it does not within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


@contextmanager
def database_file(settings: Settings) -> Iterator[sqlite3.Connection]:
    """The file itself, to look into it or to change it as a crash would; commits at the end."""
    connection = sqlite3.connect(settings.database_path)
    index.register(connection)
    with connection:
        yield connection
    connection.close()


@contextmanager
def serve(settings: Settings) -> Iterator[Client]:
    """Run the service on a free port, on a thread with a loop of its own."""
    running = server(create_app(settings), settings)
    thread = threading.Thread(target=lambda: asyncio.run(running.serve()))
    started = threading.Event()
    running.config.callback_notify = _set(started)
    running.config.timeout_notify = 0
    thread.start()
    assert started.wait(10), "the service did not start"
    port = running.servers[0].sockets[0].getsockname()[1]
    with Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
        try:
            yield client
        finally:
            running.should_exit = True
            thread.join(15)
            assert not thread.is_alive(), "the service did not stop"


def _set(started: threading.Event) -> Any:
    async def notify() -> None:
        started.set()

    return notify


def make_settings(path: Path, upstream: Upstream | None = None, **changes: Any) -> Settings:
    """Settings for a test: a free port, a fresh file, every provider at the scripted upstream."""
    url = upstream.url if upstream else "http://127.0.0.1:9/v1"
    values = {
        "port": 0,
        "database_path": path / "chat.db",
        "poe_base_url": url,
        "openai_base_url": url,
        "openai_api_key": OWN_KEY,
        "default_provider": "openai",
        "log_level": "warning",
        "_env_file": None,
    }
    return Settings(**{**values, **changes})


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path, upstream: Upstream) -> Settings:
    return make_settings(tmp_path, upstream)


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with serve(settings) as client:
        yield client
