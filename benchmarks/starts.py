"""How soon the service is there, and what memory it takes."""

import asyncio
from statistics import median

from benchmarks import processes
from benchmarks.bench import EMPTY, FLOOR, Bench, Row
from benchmarks.streams import paced

# By then the official client has been loaded too.
IDLE_AFTER = 5.0
STREAMS = 100
STREAMING_SECONDS = 3


async def start(bench: Bench) -> list[Row]:
    """From the command to the first answer of `/health`, on a file that is there."""
    seconds: dict[str, list[float]] = {FLOOR: [], **{name: [] for name in bench.checkouts}}
    async with bench.services():
        pass  # makes the files, and lets Python compile what it has not yet
    for _ in range(bench.choose(11, 1)):
        process = processes.floor(bench.upstream.port)
        process.stop()
        seconds[FLOOR].append(process.start_seconds)
        for name, checkout in bench.checkouts.items():
            database = bench.database(name, EMPTY)
            process = processes.service(checkout, database, bench.upstream.port)
            process.stop()
            seconds[name].append(process.start_seconds)
    values = {name: median(found) for name, found in seconds.items()}
    return [Row("start, until /health answers", "s", {**values})]


async def memory(bench: Bench) -> list[Row]:
    """Idle, and while streams are open."""
    count = bench.choose(STREAMS, 10)
    async with bench.services() as services:
        await asyncio.sleep(bench.choose(int(IDLE_AFTER), 0))
        targets = [bench.yardsticks[1], *services]
        idle = {target.name: target.process.memory() for target in targets}
        busy: dict[str, float | None] = {}
        for target in targets:
            seconds = bench.choose(STREAMING_SECONDS, 1)
            async with paced(target, count, seconds):
                await asyncio.sleep(seconds)
                busy[target.name] = target.process.memory()
    return [
        Row("memory, idle", "MB", {**idle}),
        Row(f"memory, {count} streams", "MB", busy),
    ]
