"""How fast a file of conversations is taken in, and how much memory that takes.

The floor reads the same file with Python's own `json.load`, and does nothing with it.

    python -m benchmarks.imports KIND MEGABYTES FILE

writes such a file, of any size.
"""

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks import processes
from benchmarks.bench import FLOOR, Bench, Row
from benchmarks.processes import ROOT
from benchmarks.seed import Writer

MESSAGES = 40
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
TIME = "2026-01-01T00:00:00.000000Z"
LOAD = "import json, sys; json.load(open(sys.argv[1]))"

Conversation = dict[str, Any]


def own(writer: Writer, number: int) -> Conversation:
    """A conversation as this project exports it; fields left out have their defaults."""
    first = number * MESSAGES + 1
    return {
        "id": str(UUID(int=number)),
        "name": f"Conversation {number}",
        "active_message_id": first + MESSAGES - 1,
        "created_at": TIME,
        "updated_at": TIME,
        "messages": [
            {
                "id": first + place,
                "parent_id": first + place - 1 if place else None,
                "role": "assistant" if place % 2 else "user",
                "content": writer.message(place // 2 + number),
                "created_at": TIME,
                "updated_at": TIME,
            }
            for place in range(MESSAGES)
        ],
    }


def chatgpt(writer: Writer, number: int) -> Conversation:
    """A conversation as ChatGPT exports it: a tree of nodes, whose root says nothing."""
    ids = [str(UUID(int=(number << 64) + place)) for place in range(MESSAGES + 1)]
    seconds = MOMENT.timestamp() + number
    nodes: dict[str, Any] = {
        id_: {
            "id": id_,
            "parent": ids[place - 1] if place else None,
            "children": ids[place + 1 : place + 2],
            "message": _chatgpt_message(writer, id_, number, place, seconds) if place else None,
        }
        for place, id_ in enumerate(ids)
    }
    return {
        "title": f"Conversation {number}",
        "create_time": seconds,
        "update_time": seconds + MESSAGES,
        "mapping": nodes,
        "current_node": ids[-1],
        "conversation_id": str(UUID(int=number)),
        "id": str(UUID(int=number)),
        "default_model_slug": "gpt-5",
        "is_archived": False,
        "gizmo_id": None,
    }


def _chatgpt_message(
    writer: Writer, id_: str, number: int, place: int, seconds: float
) -> dict[str, Any]:
    reply = place % 2 == 0
    return {
        "id": id_,
        "author": {"role": "assistant" if reply else "user", "name": None, "metadata": {}},
        "create_time": seconds + place,
        "update_time": None,
        "content": {"content_type": "text", "parts": [writer.message((place - 1) // 2 + number)]},
        "status": "finished_successfully",
        "end_turn": reply or None,
        "weight": 1.0,
        "metadata": {"model_slug": "gpt-5"} if reply else {},
        "recipient": "all",
        "channel": None,
    }


# What stands before the conversations, how one is made, and what stands after them.
KINDS: dict[str, tuple[str, Callable[[Writer, int], Conversation], str]] = {
    "own": (
        '{"format": "poe-openai-fastapi-proxy", "version": 1,'
        f' "exported_at": "{TIME}",\n"conversations": [',
        own,
        "]}\n",
    ),
    "chatgpt": ("[", chatgpt, "]\n"),
}


def write(path: Path, kind: str, megabytes: float) -> None:
    """Write a file of at least that size."""
    with path.open("w", encoding="utf-8") as file:
        for piece in _pieces(kind):
            file.write(piece)
            if file.tell() > megabytes * 1_000_000:
                break
        file.write(KINDS[kind][2])


def _pieces(kind: str) -> Iterator[str]:
    opening, make, _ = KINDS[kind]
    writer, number = Writer(1), 0
    yield opening
    while True:
        number += 1
        conversation = json.dumps(make(writer, number), ensure_ascii=False)
        yield f",\n{conversation}" if number > 1 else f"\n{conversation}"


async def take_in(bench: Bench) -> list[Row]:
    """`python main.py import FILE`, into a new database; how fast, and the most memory held."""
    rows: list[Row] = []
    megabytes = bench.choose(20, 1)
    for kind in KINDS:
        file = bench.folder / f"{kind}.json"
        write(file, kind, megabytes)
        size = file.stat().st_size / 1e6
        seconds, most = processes.run(["-c", LOAD, str(file)], ROOT, {})
        speeds: dict[str, float | None] = {FLOOR: size / seconds}
        peaks: dict[str, float | None] = {FLOOR: most}
        for name, checkout in bench.checkouts.items():
            values = {"DATABASE_PATH": str(bench.file(name, f"import-{kind}"))}
            try:
                seconds, most = processes.run(["main.py", "import", str(file)], checkout, values)
            except processes.Failed:
                continue
            speeds[name], peaks[name] = size / seconds, most
        told = f"import of {megabytes} MB, {kind}"
        rows.append(Row(f"{told}, speed", "MB/s", speeds, rising=True))
        rows.append(Row(f"{told}, most memory", "MB", peaks))
    return rows


if __name__ == "__main__":
    kind, megabytes, file = sys.argv[1:]
    write(Path(file), kind, float(megabytes))
