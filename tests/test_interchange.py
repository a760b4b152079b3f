"""What is exported is all there is, and what is imported is what was exported."""

import asyncio
import io
import json
import re
import tempfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from sqlmodel import Session

import interchange
import markdown
from db import Database
from fields import now
from imports import intake
from models import Conversation, Document, DocumentReference, Message, PoePoints, Project
from tests.conftest import Client, make_settings, serve
from tests.upstream import Upstream

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
labels = texts.filter(bool)
moments = st.integers(0, 59).map("2026-01-02T03:04:{:02}.000000Z".format)
objects = st.none() | st.dictionaries(labels, st.none() | st.integers() | st.floats(0, 1) | texts)
messages = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]),
        "content": texts,
        "parts": st.none() | st.just([{"type": "text", "text": "部分"}]),
        "reasoning": st.none() | texts,
        "model": st.none() | labels,
        "status": st.sampled_from(["complete", "stopped", "interrupted", "error"]),
        "usage": objects,
        "cost": st.none() | st.floats(0, 1),
        "request": st.none() | st.just({"documents": [1]}),
        "created_at": moments,
    }
)
trees = st.lists(st.tuples(messages, st.integers(0, 10)), max_size=8)
chats = st.lists(
    st.tuples(
        st.fixed_dictionaries(
            {
                "name": st.none() | labels,
                "system_prompt": st.none() | texts,
                "status": st.integers(0, 1),
                "project_id": st.integers(0, 2),
                "updated_at": moments,
            }
        ),
        trees,
    ),
    max_size=4,
)
effortless = effort(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def fill(session: Session, drawn: Any) -> None:
    session.add_all([Project(id=1, name="一"), Project(id=2, name="Two")])
    for number in (1, 2):
        session.add(
            Document(
                id=number,
                project_id=1,
                category_id=5,
                filename="a",
                content="文",
                version=number,
                message_ids=[1, 2],
            )
        )
    session.add(
        PoePoints(
            id=7, query_id="q", bot_name="b", usage_type="API", cost_points=5, created_at=now()
        )
    )
    session.flush()
    for values, tree in drawn:
        conversation = Conversation(**values)
        session.add(conversation)
        session.flush()
        ids: list[int | None] = [None]
        for columns, place in tree:
            parent = ids[place % len(ids)]
            message = Message(conversation_id=conversation.id, parent_id=parent, **columns)
            session.add(message)
            session.flush()
            ids.append(message.id)
        conversation.active_message_id = ids[-1]
        session.add(
            DocumentReference(
                project_id=1,
                conversation_id=conversation.id,
                document_id=2,
                reference_type="conversation",
            )
        )
    session.flush()


async def exported(db: Database) -> Any:
    pieces = [piece async for piece in interchange.export(db)]
    file = json.loads("".join(pieces))
    del file["exported_at"]
    return file


def as_file(value: Any) -> io.BytesIO:
    return io.BytesIO(json.dumps(value).encode())


async def opened(path: Path) -> AsyncIterator[Database]:
    with tempfile.TemporaryDirectory(dir=path) as folder:
        db = Database(Path(folder) / "chat.db")
        db.open()
        try:
            yield db
        finally:
            await db.close()


@effortless
@given(drawn=chats)
def test_an_export_into_an_empty_database_is_an_equal_one(tmp_path: Path, drawn: Any) -> None:
    async def run() -> None:
        async for one in opened(tmp_path):
            await one.write(fill, drawn)
            before = await exported(one)
        async for other in opened(tmp_path):
            first = await intake.take(other, as_file(before))
            assert first.skipped == []
            assert first.added.get("conversations", 0) == len(drawn)
            assert await exported(other) == before
            again = await intake.take(other, as_file(before))
            assert (again.added, again.skipped_count) == ({}, 0)
            assert await exported(other) == before

    asyncio.run(run())


@effortless
@given(drawn=chats)
def test_an_import_beside_other_rows_refers_to_the_right_ones(tmp_path: Path, drawn: Any) -> None:
    def others(session: Session) -> None:
        session.add_all([Project(id=1, name="other"), Conversation(id="here")])
        session.flush()
        session.add(Document(id=1, project_id=1, category_id=5, filename="b", content="other"))
        for number in range(3):
            session.add(Message(conversation_id="here", role="user", content=f"{number}"))

    async def run() -> None:
        async for one in opened(tmp_path):
            await one.write(fill, drawn)
            before = await exported(one)
        async for other in opened(tmp_path):
            await other.write(others)
            assert (await intake.take(other, as_file(before))).skipped == []
            after = await exported(other)
            assert (await intake.take(other, as_file(before))).added == {}
            assert await exported(other) == after
        chats = {chat["id"]: chat for chat in after["conversations"]}
        documents = {item["id"]: item for item in after["documents"]}
        projects = {item["id"]: item["name"] for item in after["projects"]}
        names = {0: None} | {item["id"]: item["name"] for item in before["projects"]}
        for chat in before["conversations"]:
            there = chats[chat["id"]]
            assert projects.get(there["project_id"]) == names[chat["project_id"]]
            assert shape(there) == shape(chat)
            for message in there["messages"]:
                for id_ in (message["request"] or {}).get("documents", []):
                    assert documents[id_]["content"] == "文"

    asyncio.run(run())


def shape(chat: Any) -> Any:
    """A conversation with its messages numbered from the first."""
    number = {message["id"]: at for at, message in enumerate(chat["messages"])} | {None: None}
    ids = ("id", "parent_id", "request")
    return number[chat["active_message_id"]], [
        (number[message["parent_id"]], {k: v for k, v in message.items() if k not in ids})
        for message in chat["messages"]
    ]


def fill_by_requests(client: Client) -> str:
    client.post("/v1/projects", json={"name": "CON"}).raise_for_status()
    chat = client.create(name="What: is/it?", project_id=1, system_prompt="Be brief\n\n# now")
    client.say(chat, "你好", model="echo").raise_for_status()
    client.say(
        chat,
        [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:x"}}],
        model="echo",
    )
    client.put("/v1/plan/categories/5", json={"prompt_template": "mine {doc}"}).raise_for_status()
    return chat


def test_the_service_takes_what_it_gave(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with serve(make_settings(tmp_path / "one")) as client:
        chat = fill_by_requests(client)
        answer = client.get("/v1/export")
        one_chat = client.get(f"/v1/chat/conversations/{chat}/export").json()
        history = client.history(chat)
    assert answer.headers["content-type"] == "application/json"
    assert "attachment" in answer.headers["content-disposition"]
    assert one_chat["conversations"] == answer.json()["conversations"]
    assert [project["name"] for project in one_chat["projects"]] == ["CON"]
    assert "session_id" not in answer.text
    with serve(make_settings(tmp_path / "two", max_body_mb=0.001)) as client:
        result = client.post("/v1/import", json=answer.json())
        assert result.status_code == 200, result.text
        assert result.json()["added"] == {"projects": 1, "conversations": 1, "messages": 4}
        assert result.json()["skipped"] == []
        hidden = ("session_id",)
        assert [{k: v for k, v in m.items() if k not in hidden} for m in client.history(chat)] == [
            {k: v for k, v in m.items() if k not in hidden} for m in history
        ]
        assert client.get("/v1/search", params={"q": "你好"}).json()["results"]
        again = client.get("/v1/export").json()
    assert again | {"exported_at": ""} == answer.json() | {"exported_at": ""}


def test_an_unfinished_draft_comes_along(tmp_path: Path, upstream: Upstream) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with serve(make_settings(tmp_path / "one", upstream)) as client:
        chat = client.create(model="hello")
        client.say(chat, "a boat")
        body = {"conversation_id": chat, "category_id": 1, "model": "cut:in-text"}
        assert client.post("/v1/plan/documents/generate", json=body).status_code == 502
        file = client.get("/v1/export").json()
    with serve(make_settings(tmp_path / "two", upstream)) as client:
        assert client.post("/v1/import", json=file).json()["added"]["drafts"] == 1
        assert client.post("/v1/import", json=file).json()["existing"]["drafts"] == 1
        (draft,) = client.get("/v1/plan/drafts").json()
    assert (draft["content"], draft["status"]) == ("half a ", "interrupted")


def test_a_list_that_is_not_known_is_told(client: Client) -> None:
    file = {**client.get("/v1/export").json(), "surprises": [{"id": 1}]}
    (skipped,) = client.post("/v1/import", json=file).json()["skipped"]
    assert skipped["kind"] == "surprises"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": "other"}',
        "{]",
        '{"a": [1 2]}',
        "[" * 100_000,
        "NaN",
        '{"format": "poe-openai-fastapi-proxy", "version": 2}',
        '{"format": "x"} {}',
    ],
)
def test_another_file_is_refused_with_a_sentence(client: Client, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/import", content=body, headers=headers)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"]
    assert client.get("/v1/export").json()["conversations"] == []


def test_what_cannot_be_stored_is_told_and_the_rest_is_stored(client: Client) -> None:
    fill_by_requests(client)
    file = client.get("/v1/export").json()
    (chat,) = file["conversations"]
    copies = []
    for number, change in enumerate(
        [
            {"status": "odd"},
            {"parent_id": 999},
            {"content": "\ud800"},
            {"surplus": 1},
            {"id": 2**60},
            {},
        ]
    ):
        copy = json.loads(json.dumps(chat | {"id": f"copy-{number}"}))
        for message in copy["messages"]:
            message["conversation_id"] = copy["id"]
        copy["messages"][1] |= change
        copies.append(copy)
    copies += [None, {"messages": 5}, {"id": []}]
    body = json.dumps(file | {"conversations": copies})
    result = client.post("/v1/import", content=body, headers={"Content-Type": "application/json"})
    assert result.status_code == 200, result.text
    answer = result.json()
    assert answer["added"] == {"conversations": 1, "messages": 4}
    assert [row["id"] for row in answer["skipped"]] == [f"copy-{n}" for n in range(5)] + [None] * 3
    assert all(row["reason"] for row in answer["skipped"])
    assert len(client.history("copy-5")) == 5


def test_a_conversation_as_markdown_reads_like_one(client: Client) -> None:
    chat = fill_by_requests(client)
    answer = client.get(f"/v1/chat/conversations/{chat}/export", params={"format": "markdown"})
    assert answer.headers["content-type"].startswith("text/markdown")
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "TIME", answer.text)
    assert text.startswith(
        "# What: is/it?\n\nCON · TIME UTC\n\n> System\n>\n> Be brief\n>\n> # now\n"
    )
    assert (
        "\n\n---\n\n**User** · TIME\n\n你好\n\n---\n\n**Assistant** · echo · TIME\n\n你好\n" in text
    )
    assert "look\n\n*(image)*" in text
    missing = client.get("/v1/chat/conversations/none/export", params={"format": "markdown"})
    assert missing.status_code == 404


def test_a_zip_has_a_folder_for_each_project(client: Client) -> None:
    fill_by_requests(client)
    client.create(name="same")
    client.create(name="Same")
    answer = client.get("/v1/export", params={"format": "zip"})
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    names = {name.casefold() for name in archive.namelist()}
    assert names == {"_con/what is it.md", "其它/same.md", "其它/same (2).md"}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("plain name", "plain name"),
        ("../../etc/passwd", "etc passwd"),
        ('a\\b/c:d*e?f"g<h>i|j\x00k', "a b c d e f g h i j k"),
        ("CON", "_CON"),
        ("aux.md", "_aux.md"),
        ("com1", "_com1"),
        ("COM10", "COM10"),
        ("ends in dots. . .", "ends in dots"),
        (".hidden", "hidden"),
        ("", "Untitled"),
        (None, "Untitled"),
        ("...", "Untitled"),
        ("e\u0301", "é"),
        ("\u202etxt.exe", "txt.exe"),
    ],
)
def test_a_name_is_safe_everywhere(text: str | None, name: str) -> None:
    assert markdown.file_name(text) == name


@given(st.lists(st.text() | st.sampled_from(["a", "A", "a (2)", "ß", "SS", "CON", "."])))
def test_names_in_a_folder_differ_whatever_the_case(texts: list[str]) -> None:
    names = markdown.Names()
    given_names = [names.free("folder", text.replace("\ud800", "")) for text in texts]
    assert len({name.casefold() for name in given_names}) == len(texts)
    for name in given_names:
        assert name
        assert name == name.strip(" .")
        assert len(name.encode()) <= 200
        assert not re.search(r'[\\/:*?"<>|\x00-\x1f]', name)
