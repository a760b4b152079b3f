"""Lists, histories and searches: each beside the same number of bytes that lay ready upstream."""

from collections.abc import Callable, Iterator, Sequence
from urllib.parse import quote

from benchmarks import load
from benchmarks.bench import Bench, Row, Seed, Service, Target, interleaved, timed
from benchmarks.load import Answer
from benchmarks.seed import Writer, conversation_id

PAGE = 50
MESSAGES = 50  # in an ordinary conversation
SAMPLE = 2000  # messages from which words are drawn
LISTS = "/v1/chat/conversations"

Fits = Callable[[Answer], bool]


async def history(bench: Bench) -> list[Row]:
    """A whole conversation, and a page of it."""
    lengths = (100,) if bench.quick else (1000, 10_000)
    rows: list[Row] = []
    async with bench.services(Seed(tuple((1, length) for length in lengths))) as services:
        for length in lengths:
            name, path = f"history of {length:,} messages", history_path(0, length)
            rows += await read(bench, services, name, [path])
            page = [f"{path}?limit={PAGE}"]
            rows += await read(bench, services, f"{name}, {PAGE} of them", page, fits=_is_page)
    return rows


async def grouped(bench: Bench) -> list[Row]:
    """All conversations by project, and a page of them."""
    rows: list[Row] = []
    for count in (100,) if bench.quick else (100, 1000, 10_000):
        async with bench.services(Seed(((count, 2),))) as services:
            name = f"{count:,} conversations"
            rows += await read(bench, services, f"{name}, grouped", [f"{LISTS}/grouped"])
            page = [f"{LISTS}?limit={PAGE}"]
            rows += await read(bench, services, f"{name}, {PAGE} of them", page)
    return rows


async def search(bench: Bench) -> list[Row]:
    """Words and pieces of texts that are there, another one each time."""
    messages = bench.choose(200_000, 1000)
    rows: list[Row] = []
    async with bench.services(Seed(((messages // MESSAGES, MESSAGES),))) as services:
        name = f"search in {messages:,} messages"
        for kind, words in queries(services[0], bench.choose(200, 5)):
            paths = [search_path(word) for word in words]
            rows += await read(bench, services, f"{name}, {kind}", paths)
        sizes = {service.name: _index_share(service) * 100 for service in services}
    return [*rows, Row("search index, of the texts' size", "%", {**sizes})]


def history_path(number: int, messages: int) -> str:
    return f"{LISTS}/{conversation_id(number, messages)}/messages"


def search_path(words: str) -> str:
    return f"/v1/search?q={quote(words)}"


async def read(
    bench: Bench,
    services: Sequence[Service],
    name: str,
    paths: Sequence[str],
    fits: Fits = lambda _: True,
) -> list[Row]:
    """Ask for these paths in turn; who answers with what does not fit has no such thing."""
    first: dict[str, Answer] = {}
    for service in services:
        connection = await load.connect(service.port)
        answer = await connection.ask(load.request("GET", paths[0]))
        connection.close()
        if answer.status == 200 and fits(answer):
            first[service.name] = answer
    able: list[Target] = [service for service in services if service.name in first]
    if not able:
        return [Row(f"{name}, p50", "ms", {})]
    size = len(first[able[0].name].body())

    def ask(target: Target, number: int) -> bytes:
        path = paths[number % len(paths)] if target in able else f"/bytes/{size}"
        return load.request("GET", path)

    rounds = bench.choose(200, 5)
    answers = await interleaved([*bench.yardsticks, *able], rounds, ask)
    times = {target: [answer.seconds for answer in found] for target, found in answers.items()}
    return timed(name, times)


def queries(service: Service, count: int) -> Iterator[tuple[str, list[str]]]:
    """Kinds of what is looked for, each with so many words or pieces of messages that are there."""
    rows = service.query(f"SELECT content FROM message ORDER BY random() LIMIT {SAMPLE}")
    texts, random = [str(content) for (content,) in rows], Writer(count).random

    def chinese(length: int) -> str:
        while True:
            content = random.choice(texts)
            start = random.randrange(len(content))
            piece = content[start : start + length]
            if len(piece) == length and all(letter >= "\u4e00" for letter in piece):
                return piece

    def latin(length: int) -> str:
        while True:
            words = random.choice(texts).replace(".", "").split()
            fitting = [word for word in words if len(word) == length and word.isascii()]
            if fitting:
                return random.choice(fitting)

    for length in (1, 2, 3):
        told = "one Chinese character" if length == 1 else f"{length} Chinese characters"
        yield told, [chinese(length) for _ in range(count)]
    yield "2 and 2 Chinese characters", [f"{chinese(2)} {chinese(2)}" for _ in range(count)]
    for length in (2, 6):
        yield f"a word of {length} letters", [latin(length) for _ in range(count)]


def _is_page(answer: Answer) -> bool:
    """With the system prompt, which is no part of the count."""
    return len(answer.json()["messages"]) <= PAGE + 1


def _index_share(service: Service) -> float:
    ((texts,),) = service.query("SELECT sum(length(CAST(content AS BLOB))) FROM message")
    ((index,),) = service.query("SELECT sum(length(block)) FROM message_search_data")
    return float(str(index)) / float(str(texts))
