"""How fast a file of conversations is taken in, and how much memory that takes.

The floor reads the same file with Python's own `json.load`, and does nothing with it.

    python -m benchmarks.imports MEGABYTES FILE

writes a ChatGPT export of any size.
"""

import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks import processes
from benchmarks.bench import FLOOR, SERVICE, Bench, Row, Seed
from benchmarks.processes import ROOT
from benchmarks.seed import Writer

MESSAGES = 40
# About what a message takes in our own export.
ROW_SIZE = 900
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
LOAD = "import json, sys; json.load(open(sys.argv[1]))"

Conversation = dict[str, Any]


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


def write(path: Path, megabytes: float) -> None:
    """Write an export of ChatGPT's of at least that size."""
    writer, number = Writer(1), 0
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * 1_000_000:
            number += 1
            conversation = json.dumps(chatgpt(writer, number), ensure_ascii=False)
            file.write(f"{',' if number > 1 else '['}\n{conversation}")
        file.write("]\n")


async def take_in(bench: Bench) -> list[Row]:
    """`python main.py import FILE`, into a new database: how fast, and the most memory held."""
    megabytes = bench.choose(20, 1)
    given = bench.folder / "conversations.json"
    write(given, megabytes)
    conversations = round(megabytes * 1_000_000 / (MESSAGES * ROW_SIZE))
    own = {name: _exported(bench, name, conversations) for name in bench.checkouts}
    return [
        *_rows(bench, "ChatGPT's export", dict.fromkeys(bench.checkouts, given)),
        *_rows(bench, "own export", own),
    ]


def _exported(bench: Bench, name: str, conversations: int) -> Path:
    """A checkout's own export of as much."""
    database = bench.database(name, Seed(((conversations, MESSAGES),)))
    file = bench.file(name, "exported").with_suffix(".json")
    command = ["main.py", "export", str(file)]
    processes.run(command, bench.checkouts[name], {"DATABASE_PATH": str(database)})
    return file


def _rows(bench: Bench, kind: str, files: dict[str, Path]) -> list[Row]:
    speeds: dict[str, float | None] = {}
    peaks: dict[str, float | None] = {}

    def run(name: str, file: Path, command: list[str], checkout: Path) -> None:
        database = bench.file(name, f"imported-{kind}")
        done = processes.run(command, checkout, {"DATABASE_PATH": str(database)})
        if "skipped: 0" in done.output or name == FLOOR:
            speeds[name], peaks[name] = file.stat().st_size / 1e6 / done.seconds, done.memory

    file = files[SERVICE]
    run(FLOOR, file, ["-c", LOAD, str(file)], ROOT)
    for name, checkout in bench.checkouts.items():
        with suppress(processes.Failed):
            run(name, files[name], ["main.py", "import", str(files[name])], checkout)
    told = f"import of {kind}, {file.stat().st_size / 1e6:.0f} MB"
    return [
        Row(f"{told}, speed", "MB/s", speeds, rising=True),
        Row(f"{told}, most memory", "MB", peaks),
    ]


if __name__ == "__main__":
    megabytes, file = sys.argv[1:]
    write(Path(file), float(megabytes))
