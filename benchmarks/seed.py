"""Fills a database with made-up conversations, by the modules of the checkout that will read it.

    PYTHONPATH=CHECKOUT python -P benchmarks/seed.py DATABASE CONVERSATIONS MESSAGES SENTENCES

adds that many conversations of that many messages each. Every second message is Chinese, and
characters and words are about as common as in real texts, so that the search index is as large and
as deep as a real one.
"""

import asyncio
import random
import sys
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert
from sqlmodel import Session, select

from db import Database
from models import Conversation, Message, Project

PROJECTS = 10
LONGEST_MESSAGE = 12  # in sentences
# One transaction writes about this many messages.
BATCH = 20_000
CHINESE_CHARACTERS = [chr(0x4E00 + number) for number in range(3500)]
LETTERS = "etaoinshrdlucmfwygpbvkxjqz"
KNOWN_WORDS = 20_000
LAST_MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


class Writer:
    """Texts of words that are drawn as real ones are: the n-th most common 1/n as often."""

    def __init__(self, seed: int, sentences: int = LONGEST_MESSAGE) -> None:
        self.random = random.Random(seed)
        self._sentences = sentences
        chinese = _zipf(len(CHINESE_CHARACTERS))
        self._chinese = [
            "".join(self.random.choices(CHINESE_CHARACTERS, cum_weights=chinese, k=length))
            for length in self.random.choices((1, 2, 3, 4), (2, 12, 4, 2), k=KNOWN_WORDS)
        ]
        weights = [1 / (rank + 1) for rank in range(len(LETTERS))]
        self._latin = [
            "".join(self.random.choices(LETTERS, weights, k=2 + min(rank // 50, length)))
            for rank, length in enumerate(self.random.choices(range(2, 10), k=KNOWN_WORDS))
        ]
        self._weights = _zipf(KNOWN_WORDS)

    def message(self, number: int) -> str:
        """A few sentences; the even ones are Chinese."""
        words, blank, stop = (self._latin, " ", ". ") if number % 2 else (self._chinese, "", "。")
        drawn = (
            self.random.choices(words, cum_weights=self._weights, k=self.random.randint(4, 16))
            for _ in range(self.random.randint(1, self._sentences))
        )
        return stop.join(blank.join(sentence) for sentence in drawn) + stop


def conversation_id(number: int, messages: int) -> str:
    """The id of the n-th conversation of that length."""
    return f"{messages:08d}-0000-4000-8000-{number:012d}"


def fill(session: Session, writer: Writer, numbers: range, messages: int) -> None:
    """The conversations of these numbers, each message below the one before."""
    last = session.exec(select(func.max(Message.id))).one() or 0
    rows: list[dict[str, Any]] = []
    for number in numbers:
        moment = _time(number)
        session.add(
            Conversation(
                id=conversation_id(number, messages),
                name=f"Conversation {number}",
                project_id=number % (PROJECTS + 1),
                active_message_id=last + len(rows) + messages,
                created_at=moment,
                updated_at=moment,
            )
        )
        rows += [
            {
                "id": last + len(rows) + place + 1,
                "parent_id": last + len(rows) + place if place else None,
                "conversation_id": conversation_id(number, messages),
                "role": "assistant" if place % 2 else "user",
                "content": writer.message(place // 2 + number),
                "created_at": moment,
                "updated_at": moment,
            }
            for place in range(messages)
        ]
    session.flush()
    session.execute(insert(Message), rows)


def add_projects(session: Session) -> None:
    for number in range(1, PROJECTS + 1):
        if session.get(Project, number) is None:
            session.add(Project(id=number, name=f"Project {number}"))


async def seed(path: Path, conversations: int, messages: int, sentences: int) -> None:
    db, writer = Database(path), Writer(conversations + messages, sentences)
    db.open()
    try:
        await db.write(add_projects)
        step = max(1, BATCH // messages)
        for first in range(0, conversations, step):
            numbers = range(first, min(first + step, conversations))
            await db.write(fill, writer, numbers, messages)
    finally:
        await db.close()


def _zipf(count: int) -> list[float]:
    return list(accumulate(1 / (rank + 2.7) for rank in range(count)))


def _time(number: int) -> str:
    moment = LAST_MOMENT - timedelta(minutes=number)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


if __name__ == "__main__":
    path, *numbers = sys.argv[1:]
    asyncio.run(seed(Path(path), *map(int, numbers)))
