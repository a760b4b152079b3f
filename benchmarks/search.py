"""How fast a search is, and how large its index: `python -m benchmarks.search [messages]`.

Fills a new database with made-up messages, every second one Chinese, whose characters and words are
about as common as in real texts, and asks the running code for them.
"""

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

from sqlalchemy import insert, text
from sqlmodel import Session

from db import Database
from models import Conversation, Message
from search import Query, search

MESSAGES = 200_000
IN_A_CONVERSATION = 50
QUERIES = 200
CHINESE_CHARACTERS = [chr(0x4E00 + number) for number in range(3500)]
LETTERS = "etaoinshrdlucmfwygpbvkxjqz"


class Writer:
    """Texts of words that are drawn as real ones are: the n-th most common 1/n as often."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a benchmark keeps no secrets
        chinese = self._zipf(len(CHINESE_CHARACTERS))
        self.chinese = [
            "".join(self.random.choices(CHINESE_CHARACTERS, cum_weights=chinese, k=length))
            for length in self.random.choices((1, 2, 3, 4), (2, 12, 4, 2), k=20_000)
        ]
        weights = [1 / (rank + 1) for rank in range(len(LETTERS))]
        self.latin = [
            "".join(self.random.choices(LETTERS, weights, k=2 + min(rank // 50, length)))
            for rank, length in enumerate(self.random.choices(range(2, 10), k=20_000))
        ]
        self.weights = self._zipf(20_000)

    def _zipf(self, count: int) -> list[float]:
        return list(accumulate(1 / (rank + 2.7) for rank in range(count)))

    def message(self, number: int) -> str:
        """A few sentences; the even ones are Chinese."""
        words, blank, stop = (self.latin, " ", ". ") if number % 2 else (self.chinese, "", "。")
        sentences = self.random.randint(1, 12)
        drawn = (
            self.random.choices(words, cum_weights=self.weights, k=self.random.randint(4, 16))
            for _ in range(sentences)
        )
        return stop.join(blank.join(sentence) for sentence in drawn) + stop


def fill(session: Session, writer: Writer, first: int, count: int) -> None:
    """One conversation."""
    conversation = Conversation(name=f"Conversation {first}")
    session.add(conversation)
    session.flush()
    session.execute(
        insert(Message),
        [
            {
                "conversation_id": conversation.id,
                "role": "user" if number % 4 < 2 else "assistant",
                "content": writer.message(number),
            }
            for number in range(first, first + count)
        ],
    )


def queries(session: Session, writer: Writer) -> Iterator[tuple[str, Callable[[], str]]]:
    """What is looked for: words and pieces of messages that are there."""
    texts = [content for (content,) in session.execute(text("SELECT content FROM message"))]

    def piece(length: int) -> str:
        while True:
            content: str = writer.random.choice(texts)
            start = writer.random.randrange(len(content))
            found = content[start : start + length]
            if len(found) == length and all(letter >= "\u4e00" for letter in found):
                return found

    def latin(length: int) -> str:
        while True:
            words: list[str] = writer.random.choice(texts).replace(".", "").split()
            fitting = [word for word in words if len(word) == length and word.isascii()]
            if fitting:
                return writer.random.choice(fitting)

    for length in (1, 2, 3):
        yield f"Chinese, {length}", lambda length=length: piece(length)  # type: ignore[misc]
    for length in (2, 3, 6):
        yield f"Latin, {length}", lambda length=length: latin(length)  # type: ignore[misc]
    yield "Chinese, 2 and 2", lambda: f"{piece(2)} {piece(2)}"


def sizes(session: Session) -> tuple[int, int]:
    """Bytes of the messages' texts, and of the index over them."""
    characters = text("SELECT sum(length(CAST(content AS BLOB))) FROM message")
    index = text("SELECT sum(length(block)) FROM message_search_data")
    return session.execute(characters).scalar_one(), session.execute(index).scalar_one()


async def measure(path: Path, messages: int) -> None:
    """Fill, ask, and print."""
    db, writer = Database(path), Writer(6)
    db.open()
    try:
        started = time.perf_counter()
        for first in range(0, messages, IN_A_CONVERSATION):
            await db.write(fill, writer, first, IN_A_CONVERSATION)
        filled = time.perf_counter() - started
        texts, index = await db.read(sizes)
        print(f"{messages} messages, written in {filled:.0f} s")
        print(f"texts {texts / 1e6:.1f} MB, index {index / 1e6:.1f} MB ({index / texts:.0%})")
        print(f"{'characters':<20}{'p50 ms':>8}{'p95 ms':>8}{'max ms':>8}{'found':>8}")
        for name, draw in await db.read(lambda session: list(queries(session, writer))):
            times, found = [], 0
            for _ in range(QUERIES):
                q = draw()
                started = time.perf_counter()
                page = await search(db, Query(q=q))
                times.append((time.perf_counter() - started) * 1000)
                found += bool(page.results)
            cuts = statistics.quantiles(times, n=20)
            figures = f"{cuts[9]:>8.1f}{cuts[18]:>8.1f}{max(times):>8.1f}{found / QUERIES:>8.0%}"
            print(f"{name:<20}{figures}")
    finally:
        await db.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        count = int(sys.argv[1]) if len(sys.argv) > 1 else MESSAGES
        asyncio.run(measure(Path(folder) / "benchmark.db", count))
