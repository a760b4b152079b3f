"""What every measurement needs: who is measured, in which order, and what a figure is."""

import asyncio
import io
import os
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from benchmarks import load, processes
from benchmarks.load import Answer, Connection
from benchmarks.processes import ROOT, Process
from benchmarks.seed import LONGEST_MESSAGE

DIRECT, FLOOR, SERVICE = "direct", "floor", "service"
# Rounds before those that count.
WARMING = 5

Ask = Callable[["Target", int], bytes]
QUESTION = "What does the quick brown fox do? 它在做什么?"


@dataclass(frozen=True)
class Row:
    """A line of the table: one figure of each that is measured, None where there is none."""

    name: str
    unit: str
    values: Mapping[str, float | None]
    rising: bool = False  # whether more is better
    # What a median was made of, round by round, so that two can be compared by their pairs.
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Seed:
    """A database to measure on: pairs of how many conversations, and of how many messages."""

    lots: tuple[tuple[int, int], ...] = ()
    sentences: int = LONGEST_MESSAGE

    def __str__(self) -> str:
        lots = "-".join(f"{conversations}x{messages}" for conversations, messages in self.lots)
        return f"{lots or 'empty'}-{self.sentences}"


EMPTY = Seed()
SEEDING = Path(__file__).with_name("seed.py")


@dataclass
class Target:
    """Who is asked: the upstream itself, and what stands between. A chat is one upstream call."""

    name: str
    process: Process

    @property
    def port(self) -> int:
        return self.process.port

    def turn(self, model: str, stream: bool) -> bytes:
        messages = [{"role": "user", "content": QUESTION}]
        body = {"model": model, "stream": stream, "messages": messages}
        return load.request("POST", "/v1/chat/completions", body)

    async def prepare(self, turns: int) -> None:
        """Do beforehand what is no part of these turns."""


@dataclass
class Service(Target):
    """The service: each turn belongs to a conversation."""

    database: Path
    chats: list[str] = field(default_factory=list)

    def turn(self, model: str, stream: bool) -> bytes:
        body = {"role": "user", "content": QUESTION, "model": model, "stream": stream}
        return load.request("POST", f"/v1/chat/conversations/{self.chats.pop()}/messages", body)

    async def prepare(self, turns: int) -> None:
        connection = await load.connect(self.port)
        create = load.request("POST", "/v1/chat/conversations", {"model": "benchmark"})
        for _ in range(turns - len(self.chats)):
            self.chats.append((await connection.ask(create)).json()["conversation_id"])
        connection.close()

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """Look into the file itself."""
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True) as file:
            return file.execute(sql).fetchall()


@dataclass
class Bench:
    """The checkouts that are compared, and what all of them are measured with."""

    folder: Path
    checkouts: dict[str, Path]
    quick: bool
    upstream: Process
    floor: Process

    def choose(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    @cached_property
    def yardsticks(self) -> list[Target]:
        return [Target(DIRECT, self.upstream), Target(FLOOR, self.floor)]

    def file(self, name: str, content: object) -> Path:
        """Where a checkout's own database of that content is."""
        return self.folder / f"{[*self.checkouts, FLOOR].index(name)}-{content}.db"

    def database(self, name: str, seed: Seed) -> Path:
        """A checkout's own database of that content; made once."""
        path = self.file(name, seed)
        if path.exists():
            return path
        for conversations, messages in seed.lots:
            numbers = (conversations, messages, seed.sentences)
            subprocess.run(
                [sys.executable, "-P", SEEDING, path, *map(str, numbers)],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(self.checkouts[name])},
                check=True,
            )
        return path

    @asynccontextmanager
    async def services(self, seed: Seed = EMPTY) -> AsyncIterator[list[Service]]:
        """The service of every checkout, warm, each on a database of its own."""
        files = {name: self.database(name, seed) for name in self.checkouts}
        services: list[Service] = []
        try:
            for name, checkout in self.checkouts.items():
                process = processes.service(checkout, files[name], self.upstream.port)
                services.append(Service(name, process, files[name]))
            for service in services:
                await service.prepare(1)
                connection = await load.connect(service.port)
                await connection.ask(service.turn("tokens-1", stream=True))
                connection.close()
            yield services
        finally:
            for service in services:
                service.process.stop()


@contextmanager
def opened(*, quick: bool = False, against: str | None = None) -> Iterator[Bench]:
    """The upstream and the floor running, and this checkout to measure; and one of `against`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkouts = {SERVICE: ROOT}
        if against:
            checkouts[against] = _checked_out(against, folder / "checkout")
        upstream = processes.upstream()
        floor = processes.floor(upstream.port)
        try:
            yield Bench(folder, checkouts, quick, upstream, floor)
        finally:
            floor.stop()
            upstream.stop()


def _checked_out(revision: str, folder: Path) -> Path:
    """The files of a revision; nothing of it is left in the repository."""
    command = ["git", "archive", "--format=tar", revision]
    packed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        files.extractall(folder, filter="data")
    return folder


async def interleaved(
    targets: Sequence[Target], rounds: int, ask: Ask, *, anew: bool = False
) -> dict[str, list[Answer]]:
    """Ask everyone once a round, one after another, each round beginning with another.

    What is asked may change with the round; those that only warm up have negative numbers. Who does
    not answer as it should has no such thing, as an older revision may, and is left out.
    """
    asked = list(targets)
    kept = {target.name: await load.connect(target.port) for target in targets}
    answers: dict[str, list[Answer]] = {target.name: [] for target in targets}
    for number in range(-WARMING, rounds):
        first = number % max(len(asked), 1)
        for target in asked[first:] + asked[:first]:
            data = ask(target, number)
            answer = await (
                load.ask_anew(target.port, data) if anew else kept[target.name].ask(data)
            )
            if answer.status != 200:
                asked.remove(target)
            elif number >= 0:
                answers[target.name].append(answer)
    for connection in kept.values():
        connection.close()
    return {name: found for name, found in answers.items() if len(found) == rounds}


async def at_once(target: Target, count: int, ask: Callable[[], bytes]) -> list[Answer]:
    """Many at a time, each on a connection of its own."""
    connections: list[Connection] = [await load.connect(target.port) for _ in range(count)]
    requests = [ask() for _ in range(count)]
    asked = zip(connections, requests, strict=True)
    answers = await asyncio.gather(*(connection.ask(data) for connection, data in asked))
    for connection in connections:
        connection.close()
    return answers


def timed(name: str, samples: Mapping[str, Sequence[float]], *, p99: bool = True) -> list[Row]:
    """The p50 and the p99 of samples in seconds."""
    told = {t: [second * 1000 for second in found] for t, found in samples.items()}
    rows = [Row(f"{name}, p50", "ms", {t: quantile(v, 0.5) for t, v in told.items()}, samples=told)]
    if p99:
        rows.append(Row(f"{name}, p99", "ms", {t: quantile(v, 0.99) for t, v in told.items()}))
    return rows


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[round(share * (len(values) - 1))]
