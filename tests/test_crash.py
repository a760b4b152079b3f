"""Kill it, end it, fill its disk: what was said stays said."""

import os
import random
import resource
import signal
import sqlite3
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import Client, Stream, stream, wait_until
from tests.process import Process, environment, refused, run
from tests.upstream import Upstream

pytestmark = pytest.mark.long

BATCHES, KILLS = 5, 10
TALKERS = 4
MODELS = ("words:200:0.005", "words:20:0.005", "words:2000:0.0005", "hello")
SEED = int(os.environ.get("SEED", random.randrange(2**32)))


@dataclass
class Turn:
    """What a client knows of a turn that it began: what it was told, and when."""

    chat: str
    content: str
    user_message_id: int | None = None
    received: list[tuple[float, str]] = field(default_factory=list)
    done: bool = False
    killed: float = 0.0

    def text(self) -> str:
        return "".join(text for _, text in self.received)

    def safe_text(self) -> str:
        """What had come half a second before the kill, and so must have been stored."""
        return "".join(text for moment, text in self.received if moment < self.killed - 0.5)


def talk(service: Process, turns: list[Turn], number: int) -> None:
    """Say one thing after another until the service is gone; every third is not streamed."""
    address = service.client.base_url
    with Client(base_url=address, trust_env=False) as client, suppress(httpx2.TransportError):
        chat = client.create()
        while True:
            number += 1
            turns.append(turn := Turn(chat, f"question {number}"))
            model = MODELS[number % len(MODELS)]
            if number % 3:
                listen(client, turn, model)
            else:
                answer = client.say(chat, turn.content, model=model).json()
                turn.user_message_id, turn.done = answer["user_message_id"], True
                turn.received.append((time.monotonic(), answer["reply"]))


def listen(client: Client, turn: Turn, model: str) -> None:
    with stream(client, turn.chat, turn.content, model=model) as events:
        turn.user_message_id = events.next()["user_message_id"]
        while (event := events.next()) != "[DONE]":
            turn.received.append((time.monotonic(), event["content"]))
        turn.done = True


def talk_and_kill(service: Process, seconds: float, number: int) -> list[Turn]:
    """Let some clients talk for so long, then kill the service; all that they know."""
    turns: list[list[Turn]] = [[] for _ in range(TALKERS)]
    with ThreadPoolExecutor(TALKERS) as pool:
        talking = [pool.submit(talk, service, turns[n], number + n) for n in range(TALKERS)]
        time.sleep(seconds)
        killed = time.monotonic()
        service.kill()
    for talker in talking:
        talker.result()
    told = [turn for mine in turns for turn in mine]
    for turn in told:
        turn.killed = killed
    return told


def check(client: Client, turns: list[Turn]) -> None:
    """All that clients were told before a kill is there."""
    histories = {chat: client.history(chat) for chat in {turn.chat for turn in turns}}
    for turn in turns:
        if turn.user_message_id is None:
            continue
        messages = histories[turn.chat]
        (place,) = (n for n, m in enumerate(messages) if m["id"] == turn.user_message_id)
        question, reply = messages[place : place + 2]
        assert (question["role"], question["content"]) == ("user", turn.content)
        assert reply["role"] == "assistant"
        assert reply["content"].startswith(turn.safe_text())
        if turn.done:
            assert (reply["status"], reply["content"]) == ("complete", turn.text())
        else:
            assert reply["status"] in ("complete", "interrupted")


def sound(path: Path) -> None:
    """The file is whole, and nothing in it is still being written."""
    with sqlite3.connect(path) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        query = "SELECT count(*) FROM message WHERE status = 'streaming'"
        assert file.execute(query).fetchone() == (0,)
    file.close()


@pytest.mark.parametrize("batch", range(BATCHES))
def test_nothing_told_is_lost_however_often_the_service_is_killed(
    tmp_path: Path, upstream: Upstream, batch: int
) -> None:
    print(f"SEED={SEED}")
    chance = random.Random(SEED + batch)
    rounds: list[list[Turn]] = []
    starts: list[float] = []
    for number in range(KILLS):
        began = time.monotonic()
        with run(environment(tmp_path, upstream), dev=False) as service:
            assert service.client.get("/health").status_code == 200
            starts.append(time.monotonic() - began)
            sound(tmp_path / "chat.db")
            check(service.client, rounds[-1] if rounds else [])
            rounds.append(talk_and_kill(service, chance.uniform(0.2, 1.6), number))
    told = [turn for turns in rounds for turn in turns]
    with run(environment(tmp_path, upstream), dev=False) as service:
        sound(tmp_path / "chat.db")
        check(service.client, told)
    print(f"starts {[round(seconds, 2) for seconds in sorted(starts)]}")
    assert any(turn.safe_text() for turn in told)
    assert statistics.median(starts) < 2


def test_a_signal_saves_and_tells_every_open_stream(tmp_path: Path, upstream: Upstream) -> None:
    with (
        run(environment(tmp_path, upstream)) as service,
        ExitStack() as kept_open,
        ThreadPoolExecutor(20) as pool,
    ):
        reading: dict[Future[list[Any]], Stream] = {}
        for _ in range(20):
            chat = service.client.create(model="words:5000:0.01")
            events = kept_open.enter_context(stream(service.client, chat))
            while not events.text:
                events.next()
            reading[pool.submit(events.rest)] = events
        started = time.monotonic()
        assert service.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
        assert time.monotonic() - started < 5
        for future in reading:
            *_, final, done = future.result()
            assert (final["finish_reason"], done) == ("error", "[DONE]")
            assert final["error"]["status"] == 503
    with sqlite3.connect(tmp_path / "chat.db") as file:
        query = "SELECT content, status FROM message WHERE role = 'assistant' ORDER BY id"
        rows = file.execute(query).fetchall()
    assert rows == [(events.text, "interrupted") for events in reading.values()]


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    if os.geteuid():
        pytest.skip("only root may mount a small disk")
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Fill the disk to the last byte; let go of it in the end."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)
    assert os.statvfs(disk).f_bavail == 0
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def refusing(service: Process) -> Iterator[None]:
    """Let every write of the process to a file fail, as a broken disk does."""
    _, hard = before = resource.prlimit(service.popen.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(service.popen.pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(service.popen.pid, resource.RLIMIT_FSIZE, before)


def refuse_what_is_to_be_stored(client: Client, chat: str, status: int, sentence: str) -> None:
    """Every change is refused in a sentence, everything read is answered."""
    before = client.history(chat)
    for answer in (
        client.post("/v1/chat/conversations", json={"name": "another"}),
        client.say(chat, "hi", model="hello"),
        client.say(chat, "hi", model="hello", stream=True),
        client.say(chat, "hi", role="system"),
        client.put(f"/v1/chat/messages/{before[0]['id']}", json={"content": "changed"}),
        client.delete(f"/v1/chat/conversations/{chat}"),
    ):
        assert (answer.status_code, answer.json()) == (status, {"detail": sentence})
    assert client.history(chat) == before
    assert len(client.get("/v1/chat/conversations").json()) == 2
    assert client.get("/health").status_code == 200


def outlive(
    service: Process,
    upstream: Upstream,
    fault: AbstractContextManager[None],
    status: int,
    sentence: str,
) -> None:
    """While the fault lasts everybody is told of it; after it, the same process goes on."""
    client = service.client
    chat, running = client.create(model="hello"), client.create(model="gate:3")
    client.say(chat, "hi")
    with stream(client, running) as events:
        wait_until(lambda: client.history(running)[-1]["content"] == "w0 w1 w2 ")
        with fault:
            refuse_what_is_to_be_stored(client, chat, status, sentence)
            upstream.open_gate()
            *_, final, done = events.rest()
            assert (final["error"], done) == ({"detail": sentence, "status": status}, "[DONE]")
            assert client.history(running)[-1]["status"] == "streaming"
    wait_until(lambda: client.history(running)[-1]["status"] == "complete")
    assert client.history(running)[-1]["content"] == events.text == "w0 w1 w2 rest"
    for each in (chat, running):
        assert client.say(each, "again", model="hello").status_code == 200


def test_a_full_disk_is_told_and_outlived(disk: Path, upstream: Upstream) -> None:
    sentence = "The disk is full: free some space and try again"
    with run(environment(disk, upstream)) as service:
        outlive(service, upstream, full(disk), 507, sentence)
    sound(disk / "chat.db")
    assert "Traceback" not in "".join(service.log)


def test_a_full_disk_for_what_is_under_way_is_told(tmp_path: Path, disk: Path) -> None:
    """Uploads and archives are written to TMPDIR, which need not be where the database is."""
    sentence = "The disk is full: free some space and try again"
    with run(environment(tmp_path, TMPDIR=str(disk))) as service:
        client = service.client
        chat = client.create()
        client.say(chat, os.urandom(100_000).hex(), role="assistant")
        export = client.get("/v1/export").json()
        assert client.get("/v1/export?format=zip").status_code == 200  # on this disk from now on
        wait_until(lambda: not list(disk.iterdir()))
        with full(disk):
            for answer in (
                client.post("/v1/import", json=export),
                client.post("/v1/import", files={"file": b" " * 3_000_000}),
                client.get("/v1/export?format=zip"),
            ):
                assert (answer.status_code, answer.json()) == (507, {"detail": sentence})
        assert client.get("/v1/export?format=zip").status_code == 200
        wait_until(lambda: not list(disk.iterdir()))
    assert "Traceback" not in "".join(service.log)


def test_a_disk_that_refuses_writes_is_told_and_outlived(
    tmp_path: Path, upstream: Upstream
) -> None:
    sentence = "The database file cannot be written: check its permissions and its disk"
    with run(environment(tmp_path, upstream)) as service:
        outlive(service, upstream, refusing(service), 503, sentence)
    sound(tmp_path / "chat.db")
    assert "Traceback" not in "".join(service.log)


def test_a_read_only_disk_stops_the_start_with_a_sentence(disk: Path) -> None:
    with run(environment(disk)) as service:
        service.client.create()
        service.stop(signal.SIGTERM)
    mount("-o", "remount,ro", str(disk))
    sentence = refused(environment(disk))
    assert sentence == f"{disk / 'chat.db'} cannot be opened: Read-only file system\n"
    mount("-o", "remount,rw", str(disk))
    with run(environment(disk)) as service:
        assert len(service.client.get("/v1/chat/conversations").json()) == 1


def test_a_file_that_another_program_holds_delays_but_loses_nothing(
    tmp_path: Path, upstream: Upstream
) -> None:
    """For longer than a write waits for it."""
    with run(environment(tmp_path, upstream)) as service:
        client = service.client
        chat = client.create(model="gate:2")
        with stream(client, chat) as events:
            events.next()
            with closing(sqlite3.connect(tmp_path / "chat.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                upstream.open_gate()
                *_, final, _done = events.rest()
                assert final["error"]["status"] == 503
                other.execute("ROLLBACK")
        wait_until(lambda: client.history(chat)[-1]["status"] == "complete")
        assert client.history(chat)[-1]["content"] == "w0 w1 rest"
