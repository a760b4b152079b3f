"""How long a turn takes, and how much of that is the service's own.

What is added is told by pairs: a turn through the service less the turn that asked the upstream
itself in the same round, a few milliseconds apart. The machine's speed drifts over seconds, and
neighbours in time share it; the difference of two medians, each over the whole run, would not see
through that. The p99 of these differences has the direct turn's own hiccups in it too: it is a
little worse than the truth, never better.
"""

from collections.abc import Callable, Sequence

from benchmarks import load
from benchmarks.bench import (
    DIRECT,
    QUESTION,
    Bench,
    Row,
    Seed,
    Service,
    Target,
    interleaved,
    quantile,
)
from benchmarks.load import Answer
from benchmarks.seed import conversation_id

TOKENS = 100
MODEL = f"tokens-{TOKENS}"
SHARES = {"p50": 0.5, "p99": 0.99}
LONG = 100

Measure = Callable[[Answer], float]


async def turn(bench: Bench) -> list[Row]:
    """A conversation's first turn, streamed and not."""
    rounds = bench.choose(500, 20)
    async with bench.services() as services:
        targets = [*bench.yardsticks, *services]
        streamed = await _asked(targets, rounds, stream=True)
        whole = await _asked(targets, rounds, stream=False)
    return [
        *_rows("first token", streamed, lambda answer: answer.first - answer.started),
        *_rows(f"turn of {TOKENS} tokens", streamed, lambda answer: answer.seconds),
        *_rows("the same, not streamed", whole, lambda answer: answer.seconds),
    ]


async def growing(bench: Bench) -> list[Row]:
    """Turns of one conversation, which is long when they begin and grows by them."""
    rounds = bench.choose(100, 10)

    def ask(target: Target, number: int) -> bytes:
        assert isinstance(target, Service)
        target.chats.append(conversation_id(0, LONG))
        return target.turn(MODEL, stream=True)

    async with bench.services(Seed(((1, LONG),))) as services:
        answers = await interleaved(services, rounds, ask)
    name = f"first token, conversation of {LONG} to {LONG + 2 * rounds} messages"
    return [_row(f"{name}, p50", answers, lambda a: a.first - a.started, 0.5)]


async def relayed(bench: Bench) -> list[Row]:
    """OpenAI's own call, passed through and not stored."""
    rounds = bench.choose(500, 20)
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": MODEL, "stream": True, "messages": messages}
    call = load.request("POST", "/v1/chat/completions", body)
    async with bench.services() as services:
        answers = await interleaved([*bench.yardsticks, *services], rounds, lambda _, __: call)
    return _rows("chat completion, first token", answers, lambda a: a.first - a.started)


async def _asked(
    targets: Sequence[Target], rounds: int, *, stream: bool
) -> dict[str, list[Answer]]:
    for target in targets:
        await target.prepare(rounds + 10)
    return await interleaved(targets, rounds, lambda target, _: target.turn(MODEL, stream))


def _rows(name: str, answers: dict[str, list[Answer]], measure: Measure) -> list[Row]:
    direct = answers[DIRECT]
    added = {
        target: [measure(one) - measure(other) for one, other in zip(found, direct, strict=True)]
        for target, found in answers.items()
        if target != DIRECT
    }
    rows = [_row(f"{name}, {told}", answers, measure, share) for told, share in SHARES.items()]
    for told, share in SHARES.items():
        values = {target: quantile(found, share) * 1000 for target, found in added.items()}
        rows.append(Row(f"{name}, added, {told}", "ms", {**values}))
    return rows


def _row(name: str, answers: dict[str, list[Answer]], measure: Measure, share: float) -> Row:
    values = {t: quantile([measure(a) for a in found], share) for t, found in answers.items()}
    return Row(name, "ms", {target: value * 1000 for target, value in values.items()})
