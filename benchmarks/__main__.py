"""Measure, and print a table.

    python -m benchmarks [NAME ...] [--against REV] [--quick] [--json FILE]

Everything runs on this machine: the upstream asked directly, a pass-through proxy (the floor), and
the service, each a process of its own, asked in turns. With `--against` the service as it was at
another revision takes its turns too.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks import imports, processes, reads, report, starts, streams, turns
from benchmarks.bench import SERVICE, Bench, Row
from benchmarks.processes import ROOT

MEASUREMENTS: dict[str, Callable[[Bench], Awaitable[list[Row]]]] = {
    "turn": turns.turn,
    "growing": turns.growing,
    "relayed": turns.relayed,
    "tokens": streams.tokens,
    "streams": streams.streams,
    "memory": starts.memory,
    "start": starts.start,
    "history": reads.history,
    "grouped": reads.grouped,
    "search": reads.search,
    "import": imports.take_in,
}


def main() -> None:
    asked = _arguments()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name, _bench(Path(name), asked) as bench:
        for name in asked.names or MEASUREMENTS:
            started = time.perf_counter()
            print(f"{name} …", end="", file=sys.stderr, flush=True)
            rows += asyncio.run(_measure(name, bench))
            print(f" {time.perf_counter() - started:.0f} s", file=sys.stderr)
    print(report.machine(), end="\n\n")
    print(report.table(rows, asked.against))
    if asked.json:
        figures = {"machine": report.machine(), "rows": [asdict(row) for row in rows]}
        asked.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--against", metavar="REV", help="a revision to compare with")
    parser.add_argument("--quick", action="store_true", help="few and small: does it run at all?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures here too")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(MEASUREMENTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return asked


async def _measure(name: str, bench: Bench) -> list[Row]:
    return await MEASUREMENTS[name](bench)


@contextmanager
def _bench(folder: Path, asked: argparse.Namespace) -> Iterator[Bench]:
    checkouts = {SERVICE: ROOT}
    if asked.against:
        checkouts[asked.against] = folder / "checkout"
        _git("worktree", "add", "--detach", str(folder / "checkout"), asked.against)
    upstream = processes.upstream()
    floor = processes.floor(upstream.port)
    try:
        yield Bench(folder, checkouts, asked.quick, upstream, floor)
    finally:
        floor.stop()
        upstream.stop()
        if asked.against:
            _git("worktree", "remove", "--force", str(folder / "checkout"))


def _git(*words: str) -> None:
    subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True)


if __name__ == "__main__":
    main()
