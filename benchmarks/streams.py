"""Many streams at once: as fast as they can, and at the pace of a model."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median

from benchmarks import load
from benchmarks.bench import Bench, Row, Target, at_once, quantile
from benchmarks.load import Answer
from benchmarks.upstream import TOKENS_A_SECOND, text

STREAMS = 32
LONGEST_LAG = 0.05
MOST_STREAMS = 800
STEP = 10
FEW_STREAMS = 50
# Streams begin one after another, as people do, and some time passes before lags count.
RAMP_PAUSE = 0.005
SETTLING = 1.0
# A stream that gets fewer tokens than this share of what was sent has not been held.
ENOUGH = 0.98


@dataclass(frozen=True)
class Lag:
    """How late tokens were, in seconds."""

    p50: float
    p99: float
    share: float  # of the tokens that should have come
    processor: float  # the time a token took, in seconds

    @property
    def held(self) -> bool:
        return self.p99 < LONGEST_LAG and self.share > ENOUGH


NONE_CAME = Lag(float("inf"), float("inf"), 0.0, 0.0)


async def tokens(bench: Bench) -> list[Row]:
    """Tokens a second through all streams together; every text is checked."""
    length, rounds = bench.choose(8000, 500), bench.choose(5, 1)
    rates: dict[str, list[float]] = {}
    async with bench.services() as services:
        for _ in range(rounds):
            for target in [*bench.yardsticks, *services]:
                rates.setdefault(target.name, []).append(await _rate(target, length))
    values = {name: median(found) for name, found in rates.items()}
    return [Row(f"tokens relayed, {STREAMS} streams", "tokens/s", values, rising=True)]


async def _rate(target: Target, length: int) -> float:
    await target.prepare(STREAMS)
    ask = f"tokens-{length}"
    answers = await at_once(target, STREAMS, lambda: target.turn(ask, stream=True))
    expected = text(length)
    for answer in answers:
        if answer.text() != expected:
            raise RuntimeError(f"{target.name} lost text")
    seconds = max(answer.ended for answer in answers) - min(answer.started for answer in answers)
    return STREAMS * length / seconds


async def streams(bench: Bench) -> list[Row]:
    """The largest number of streams whose tokens come in time, found by halving."""
    seconds, most = bench.choose(4, 1), bench.choose(MOST_STREAMS, 10)
    few = min(most, FEW_STREAMS)
    async with bench.services() as services:
        targets = [*bench.yardsticks, *services]
        taken = {t.name: (await lag(t, few, seconds)).processor * 1e6 for t in targets[1:]}
        ranges = {target.name: (0, most // STEP + 1) for target in targets}
        while any(high - low > 1 for low, high in ranges.values()):
            for target in targets:
                low, high = ranges[target.name]
                if high - low > 1:
                    middle = (low + high) // 2
                    held = await _held(target, middle * STEP, seconds)
                    ranges[target.name] = (middle, high) if held else (low, middle)
    name = f"streams of {TOKENS_A_SECOND} tokens/s, p99 lag under {LONGEST_LAG * 1000:.0f} ms"
    return [
        Row(name, "", {name: low * STEP for name, (low, _) in ranges.items()}, rising=True),
        Row(f"processor time a token, {few} streams", "µs", taken),
    ]


async def _held(target: Target, count: int, seconds: float) -> bool:
    """Once more where it is close: a hiccup of the machine is not the target's."""
    late = await lag(target, count, seconds)
    if not late.held and late.p99 < LONGEST_LAG * 2:
        late = await lag(target, count, seconds)
    return late.held


async def lag(target: Target, count: int, seconds: float) -> Lag:
    """How late the tokens of so many streams are, when all of them run."""
    async with paced(target, count, seconds) as asked:
        begin, before = time.monotonic(), target.process.processor()
        await asyncio.sleep(seconds)
        taken = target.process.processor() - before
        answers = await asyncio.gather(*asked, return_exceptions=True)
    lags: list[float] = []
    for answer in answers:
        if isinstance(answer, BaseException) or answer.status != 200:
            return NONE_CAME
        lags += (late for sent, late in answer.stamps if begin <= sent < begin + seconds)
    if not lags:
        return NONE_CAME
    share = len(lags) / (count * seconds * TOKENS_A_SECOND)
    return Lag(quantile(lags, 0.5), quantile(lags, 0.99), share, taken / len(lags))


@asynccontextmanager
async def paced(
    target: Target, count: int, seconds: float
) -> AsyncIterator[list[asyncio.Future[Answer]]]:
    """So many streams, all of which go on for at least so many seconds from now."""
    await target.prepare(count)
    length = count * RAMP_PAUSE + seconds + 2 * SETTLING
    model = f"paced-{round(length * TOKENS_A_SECOND)}"
    connections = [await load.connect(target.port) for _ in range(count)]
    asked, started = list[asyncio.Future[Answer]](), time.monotonic()
    for number, connection in enumerate(connections):
        await asyncio.sleep(max(0, started + number * RAMP_PAUSE - time.monotonic()))
        asked.append(connection.ask(target.turn(model, stream=True)))
    await asyncio.sleep(SETTLING)
    try:
        yield asked
        await asyncio.gather(*asked, return_exceptions=True)
    finally:
        for connection in connections:
            connection.close()
