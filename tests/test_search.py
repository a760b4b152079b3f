"""Anything that was said is found, exactly, and nothing else is."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlmodel import Session, SQLModel

import index
import search
from fields import now
from models import Conversation, Message
from settings import Settings
from tests.conftest import Client, database_file, serve, stream
from tests.upstream import Upstream

TEXTS = [
    "明天北京的天气很好, 适合去公园。",
    "The quick brown fox; C++ and C# are languages.",
    "今日は東京でラーメンを食べました",
    "서울의 날씨가 좋습니다",
    "Le café de l'ÉCOLE est fermé 😀👍🏽",
    'use a_name AND NOT that* (NEAR) "quoted words" 100% a-b col:x',
    "把服务部署到 Kubernetes 集群里",
]


@pytest.fixture
def chat(client: Client) -> str:
    """A conversation with all of the texts."""
    chat = client.create(name="Everything")
    for content in TEXTS:
        keep(client, chat, content)
    return chat


def keep(client: Client, chat: str, content: str, role: str = "assistant") -> int:
    path = f"/v1/chat/conversations/{chat}/messages"
    answer = client.post(path, json={"role": role, "content": content})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["user_message_id"])


def find(client: Client, q: str, **parameters: Any) -> list[dict[str, Any]]:
    answer = client.get("/v1/search", params={"q": q, **parameters})
    assert answer.status_code == 200, answer.text
    assert answer.json()["query"] == q
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def marked(result: dict[str, Any]) -> list[str]:
    return [result["snippet"][start:end] for start, end in result["hits"]]


@pytest.mark.parametrize(
    ("q", "number", "hits"),
    [
        ("天", 0, ["天", "天"]),
        ("天气", 0, ["天气"]),
        ("北京的天气", 0, ["北京的天气"]),
        ("公园 天气", 0, ["天气", "公园"]),
        ("京で", 2, ["京で"]),
        ("ラーメン", 2, ["ラーメン"]),
        (unicodedata.normalize("NFD", "で"), 2, ["で"]),
        ("날씨", 3, ["날씨"]),
        (unicodedata.normalize("NFD", "서울"), 3, ["서울"]),
        ("😀", 4, ["😀"]),
        ("👍", 4, ["👍"]),
        ("cafe", 4, ["café"]),
        ("CAFÉ ecole", 4, ["café", "ÉCOLE"]),
        ("C++", 1, ["C++"]),
        ("c#", 1, ["C#"]),
        ("QUICK fox", 1, ["quick", "fox"]),
        ('"brown fox"', 1, ["brown fox"]),
        ("AND NOT", 5, ["AND", "NOT"]),
        ("NEAR", 5, ["NEAR"]),
        ("*", 5, ["*"]),
        ("that*", 5, ["that*"]),
        ("a_name", 5, ["a_name"]),
        ("col:x", 5, ["col:x"]),
        ('"', 5, ['"', '"']),
        ("100%", 5, ["100%"]),
        ("-b", 5, ["-b"]),
        ("部署 kubernetes", 6, ["部署", "Kubernetes"]),
    ],
)
def test_what_was_said_is_found_in_any_script(
    client: Client, chat: str, q: str, number: int, hits: list[str]
) -> None:
    (result,) = find(client, q)
    assert marked(result) == hits
    assert result["snippet"] == TEXTS[number]
    assert result["type"] == "message"
    assert (result["conversation_id"], result["conversation_name"]) == (chat, "Everything")


@pytest.mark.parametrize(
    "q",
    ["气天", "fox brown quick x", '"quick fox"', "C++++", "qui*", "天气 Kubernetes", "OR", "caf"],
)
def test_what_was_not_said_is_not_found(client: Client, chat: str, q: str) -> None:
    assert find(client, q) == []


@pytest.mark.parametrize("q", ["", "  ", "\t", "\ufe0f"])
def test_a_query_that_says_nothing_is_refused(client: Client, q: str) -> None:
    answer = client.get("/v1/search", params={"q": q})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "q"


def test_a_query_of_many_words_is_no_trouble(client: Client, chat: str) -> None:
    assert find(client, "天气 " * 300) == find(client, "天气")
    assert find(client, " ".join(map(str, range(250)))) == []
    assert client.get("/v1/search", params={"q": "x" * 1001}).status_code == 422


def test_an_edit_and_a_deletion_show_at_once(client: Client) -> None:
    chat = client.create()
    message = keep(client, chat, "before the edit")
    client.put(f"/v1/chat/messages/{message}", json={"content": "编辑以后"}).raise_for_status()
    assert find(client, "before") == []
    assert len(find(client, "编辑")) == 1
    client.post("/v1/chat/messages/delete", json={"message_ids": [message]}).raise_for_status()
    assert find(client, "编辑") == []


def test_what_goes_with_something_else_is_not_found_any_more(client: Client) -> None:
    chat = client.create(project_id=7)
    keep(client, chat, "cascade")
    document = {"project_id": 7, "category_id": 5, "filename": "a.md", "content": "cascade"}
    client.post("/v1/plan/documents", json=document).raise_for_status()
    assert [result["type"] for result in find(client, "cascade")] == ["document", "message"]
    client.delete(f"/v1/chat/conversations/{chat}").raise_for_status()
    assert [result["type"] for result in find(client, "cascade")] == ["document"]
    client.delete("/v1/projects/7", params={"force": True}).raise_for_status()
    assert find(client, "cascade") == []


def test_a_reply_is_found_once_it_has_ended(client: Client, upstream: Upstream) -> None:
    chat = client.create(model="gate")
    with stream(client, chat, "question") as events:
        events.next()
        assert [result["role"] for result in find(client, "question")] == ["user"]
        assert find(client, "rest") == []
        upstream.open_gate()
        events.rest()
    (result,) = find(client, "rest")
    assert result["role"] == "assistant"


def test_a_reply_that_a_crash_cut_off_is_found(settings: Settings) -> None:
    with serve(settings) as client:
        client.say(client.create(model="hello"), "hi")
    with database_file(settings) as file:
        file.execute("UPDATE message SET status = 'streaming' WHERE role = 'assistant'")
    with serve(settings) as client:
        assert len(find(client, "world")) == 1


def test_documents_are_found_by_name_and_by_text(client: Client) -> None:
    document = {"category_id": 5, "filename": "部署手册.md", "content": "step one"}
    client.post("/v1/plan/documents", json=document).raise_for_status()
    (result,) = find(client, "部署 step")
    assert (result["type"], result["filename"], result["version"]) == ("document", "部署手册.md", 1)
    assert (result["snippet"], marked(result)) == ("step one", ["step"])
    (result,) = find(client, "手册")
    assert (result["snippet"], result["hits"]) == ("step one", [])
    client.put(f"/v1/plan/documents/{result['id']}", json={"content": "two"}).raise_for_status()
    assert [found["version"] for found in find(client, "手册")] == [2, 1]


def test_results_are_filtered(client: Client) -> None:
    old, new = client.create(project_id=1), client.create(project_id=2, status=1)
    first = keep(client, old, "needle", role="system")
    second = keep(client, new, "needle")
    client.put(
        f"/v1/chat/messages/{first}",
        json={"content": "needle", "created_at": "2020-01-01T00:00:00Z"},
    ).raise_for_status()
    document = {"category_id": 5, "filename": "a", "content": "needle", "project_id": 2}
    client.post("/v1/plan/documents", json=document).raise_for_status()

    def found(**parameters: Any) -> list[int | str]:
        results = find(client, "needle", **parameters)
        return [r["id"] if r["type"] == "message" else "document" for r in results]

    assert found() == ["document", second, first]
    assert found(project_id="", role="", status="", limit="", offset="") == found()
    assert found(project_id=1) == [first]
    assert found(project_id=2) == ["document", second]
    assert found(role="system") == [first]
    assert found(status=1) == [second]
    assert found(status=0) == ["document", first]
    assert found(to="2020-01-01T00:00:00Z") == []
    assert found(**{"from": "2020-01-01T00:00:00Z", "to": "2021-01-01T00:00:00Z"}) == [first]


def test_the_best_come_first_and_of_equals_the_newest(client: Client) -> None:
    chat = client.create()
    long = keep(client, chat, "needle in a haystack" + " of hay" * 200)
    best = keep(client, chat, "needle needle needle")
    older, newer = keep(client, chat, "a needle"), keep(client, chat, "b needle")
    assert [result["id"] for result in find(client, "needle")] == [best, newer, older, long]


def test_pages_follow_each_other_without_gap_or_repetition(client: Client) -> None:
    chat = client.create()
    ids = {keep(client, chat, f"needle {number:03}") for number in range(230)}
    found: list[int] = []
    offset: int | None = 0
    while offset is not None:
        parameters: dict[str, str | int] = {"q": "needle", "limit": 40, "offset": offset}
        page = client.get("/v1/search", params=parameters).json()
        found += [result["id"] for result in page["results"]]
        offset = page["next_offset"]
    assert len(found) == len(ids)
    assert set(found) == ids
    assert found == sorted(found, reverse=True)


def test_a_snippet_is_a_piece_around_the_first_hit(client: Client) -> None:
    keep(client, client.create(), "前" * 500 + "目标" + "后" * 500 + "目标")
    (result,) = find(client, "目标")
    assert result["snippet"] == "前" * 40 + "目标" + "后" * 78
    assert result["hits"] == [[40, 42]]


def test_a_phrase_longer_than_a_snippet_is_shown_whole(client: Client) -> None:
    phrase = "一二三四五六七八九十" * 20
    keep(client, client.create(), f"前{phrase}后")
    (result,) = find(client, phrase)
    assert marked(result) == [phrase]


def test_the_index_is_made_anew_on_demand(settings: Settings) -> None:
    with serve(settings) as client:
        chat = client.create()
        for content in TEXTS:
            keep(client, chat, content)
        with database_file(settings) as file:
            file.execute("INSERT INTO message_search (message_search) VALUES ('delete-all')")
        assert find(client, "天气") == []
        answer = client.post("/v1/search/rebuild")
        assert answer.json() == {"message": f"{len(TEXTS)} messages and 0 documents indexed"}
        assert len(find(client, "天气")) == 1


# The property: what the index finds is what reading every text finds.

SCRIPTS = (
    "天气好日のガか\u3099한국\u1112\u1161ab Ab\u0301éÉ_1２²+*\"'-:😀👍🏽"
    "\ufe0f\u200d\ue000ไทยहिﬁ\n ß\U0002b820"
)
words = st.text(st.sampled_from(SCRIPTS), min_size=1, max_size=12)
any_text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
)
queries = st.lists(st.one_of(words, any_text, words.map('"{}"'.format)), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        index.register(connection.connection.dbapi_connection)
        SQLModel.metadata.create_all(connection)
        index.create(connection)
        with Session(connection) as session:
            session.add(Conversation(id="all"))
            session.flush()
            yield session
    engine.dispose()


def scan(texts: list[str], wanted: list[str]) -> set[int]:
    """The same definition of a match, without an index."""

    def has(content: list[str], phrase: list[str]) -> bool:
        starts = range(len(content) - len(phrase) + 1)
        return any(content[start : start + len(phrase)] == phrase for start in starts)

    split = [index.tokens(content).split() for content in texts]
    phrases = [index.tokens(term).split() for term in wanted]
    return {
        number
        for number, content in enumerate(split)
        if all(has(content, phrase) for phrase in phrases)
    }


@effort(
    max_examples=500,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(texts=st.lists(st.one_of(words, any_text), min_size=1, max_size=8), parts=queries)
def test_the_index_finds_what_reading_everything_finds(
    session: Session, texts: list[str], parts: list[str]
) -> None:
    session.execute(text("DELETE FROM message"))
    texts = [*texts, " ".join(parts), "".join(parts)]
    messages = [
        Message(conversation_id="all", role="user", content="before", created_at=now())
        for _ in texts
    ]
    session.add_all(messages)
    session.flush()
    for message, content in zip(messages, texts, strict=True):
        message.content = content
    session.flush()
    q = " ".join(parts)
    wanted = search.terms(q)
    if not wanted:
        assert not index.tokens(q)
        return
    phrases = [index.tokens(term) for term in wanted]
    found = {row.id for row in search._newest(session, search.Query(q=q), phrases)}
    numbers = {message.id: number for number, message in enumerate(messages)}
    assert {numbers[id_] for id_ in found} == scan(texts, wanted)
    for number in scan(texts, wanted):
        snippet, hits = search.excerpt(texts[number], phrases)
        assert hits
        assert all(0 <= start < end <= len(snippet) for start, end in hits)


@given(st.text())
def test_a_token_begins_and_ends_where_it_is_said_to(content: str) -> None:
    places = list(index.places(content))
    assert " ".join(token for token, _, _ in places) == index.tokens(content)
    assert all(index.tokens(content[start:end]) == token for token, start, end in places)
    left_out = re.sub(r"[\s\ufe00-\ufe0f]", "", content)
    assert "".join(content[start:end] for _, start, end in places) == left_out
