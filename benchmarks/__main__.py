"""Measure, and print a table.

    python -m benchmarks [NAME ...] [--against REV] [--quick] [--json FILE]

Everything runs on this machine: the upstream asked directly, a pass-through proxy (the floor), and
the service, each a process of its own, asked in turns. With `--against` the service as it was at
another revision takes its turns too.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import imports, reads, report, starts, streams, turns
from benchmarks.bench import Bench, Row, opened

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
    with opened(quick=asked.quick, against=asked.against) as bench:
        for name in asked.names or MEASUREMENTS:
            started = time.perf_counter()
            print(f"{name} …", end="", file=sys.stderr, flush=True)
            rows += asyncio.run(_measure(name, bench))
            print(f" {time.perf_counter() - started:.0f} s", file=sys.stderr)
    print(report.machine(), end="\n\n")
    print(report.table(rows, asked.against))
    if asked.json:
        figures = {"machine": report.machine(), "rows": [_plain(row) for row in rows]}
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


def _plain(row: Row) -> dict[str, object]:
    return {"name": row.name, "unit": row.unit, "values": dict(row.values)}


async def _measure(name: str, bench: Bench) -> list[Row]:
    return await MEASUREMENTS[name](bench)


if __name__ == "__main__":
    main()
