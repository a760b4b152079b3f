"""How long a turn takes, and how much of that is the service's own.

What is added is told by pairs: a turn through the service less the turn that asked the upstream
itself in the same round, a few milliseconds apart. The machine's speed drifts over seconds, and
neighbours in time share it; the difference of two medians, each over the whole run, would not see
through that. The p99 of these differences is that of the service's own hiccups: those of the direct
turn only make a difference smaller.

A person takes longer between two turns than a server keeps a connection open, so most turns of a
chat come on a new one. That is measured beside turns that follow each other on one connection.

First tokens are those of replies that have one: a model says one at a time, but the upstream here
sends a hundred in a packet, and who stores what it passes on has read them all before the first.
"""

from collections.abc import Callable, Sequence

from benchmarks import load
from benchmarks.bench import (
    DIRECT,
    QUESTION,
    WARMING,
    Bench,
    Row,
    Seed,
    Service,
    Target,
    interleaved,
    timed,
)
from benchmarks.load import Answer
from benchmarks.seed import conversation_id

TOKENS = 100
MODEL = f"tokens-{TOKENS}"
ONE_TOKEN = "tokens-1"
LONG = 100

Measure = Callable[[Answer], float]


async def turn(bench: Bench) -> list[Row]:
    """A conversation's first turn, streamed and not."""
    rounds = bench.choose(500, 20)
    async with bench.services() as services:
        targets = [*bench.yardsticks, *services]
        for target in targets:
            await target.prepare(4 * (rounds + WARMING))
        before = {target.name: target.process.processor() for target in targets[1:]}
        streamed = await _asked(targets, rounds, MODEL, stream=True)
        busy = {target.name: target.process.processor() for target in targets[1:]}
        whole = await _asked(targets, rounds, MODEL, stream=False)
        first = await _asked(targets, rounds, ONE_TOKEN, stream=True)
        anew = await _asked(targets, rounds, ONE_TOKEN, stream=True, anew=True)
    each = {name: (busy[name] - before[name]) / (rounds + WARMING) * 1000 for name in busy}
    return [
        *_rows("first token", first, _first),
        *_rows("first token, on a new connection", anew, _first),
        *_rows(f"turn of {TOKENS} tokens", streamed, lambda answer: answer.seconds),
        *_rows("the same, not streamed", whole, lambda answer: answer.seconds),
        Row("processor time a turn", "ms", each),
    ]


async def growing(bench: Bench) -> list[Row]:
    """Turns of one conversation, which is long when they begin and grows by them."""
    rounds = bench.choose(100, 10)

    def ask(target: Target, number: int) -> bytes:
        assert isinstance(target, Service)
        target.chats.append(conversation_id(0, LONG))
        return target.turn(ONE_TOKEN, stream=True)

    async with bench.services(Seed(((1, LONG),))) as services:
        answers = await interleaved(services, rounds, ask)
    name = f"first token, conversation of {LONG} to {LONG + 2 * rounds} messages"
    samples = {target: [_first(answer) for answer in found] for target, found in answers.items()}
    return timed(name, samples, p99=False)


async def relayed(bench: Bench) -> list[Row]:
    """OpenAI's own call, passed through and not stored."""
    rounds = bench.choose(500, 20)
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": ONE_TOKEN, "stream": True, "messages": messages}
    call = load.request("POST", "/v1/chat/completions", body)
    async with bench.services() as services:
        answers = await interleaved([*bench.yardsticks, *services], rounds, lambda _, __: call)
    return _rows("chat completion, first token", answers, _first)


async def _asked(
    targets: Sequence[Target], rounds: int, model: str, *, stream: bool, anew: bool = False
) -> dict[str, list[Answer]]:
    return await interleaved(
        targets, rounds, lambda target, _: target.turn(model, stream), anew=anew
    )


def _first(answer: Answer) -> float:
    return answer.first - answer.started


def _rows(name: str, answers: dict[str, list[Answer]], measure: Measure) -> list[Row]:
    direct = answers[DIRECT]
    added = {
        target: [measure(one) - measure(other) for one, other in zip(found, direct, strict=True)]
        for target, found in answers.items()
        if target != DIRECT
    }
    whole = {target: [measure(answer) for answer in found] for target, found in answers.items()}
    return [*timed(name, whole), *timed(f"{name}, added", added)]
