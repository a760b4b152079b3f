"""Whatever clients do, in any order, with crashes between: history is what a plain model says."""

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import Client, Stream
from tests.process import Process, environment
from tests.upstream import Upstream

pytestmark = pytest.mark.long

# How a turn with each model ends: the reply's status and text, and the answer's status unstreamed.
ENDS = {
    "hello": ("complete", "你好, world!", 200),
    "words:7": ("complete", "w0 w1 w2 w3 w4 w5 w6 ", 200),
    "words:0": ("complete", "", 200),
    "cut:in-text": ("interrupted", "half a ", 502),
    "refuse:400": ("error", "", 400),
    "echo": ("complete", "{content}", 200),
}
# What a turn that waits at the gate has said.
BEFORE = "w0 w1 w2 w3 "
MOST_RESTARTS = 2
# Few, so that each grows long and has branches.
CHATS = 2

models = st.sampled_from(sorted(ENDS))
contents = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=10
)
chats: st.SearchStrategy[Any] = st.runner().flatmap(lambda clients: st.sampled_from(clients.known))
# Which message of a conversation, counted round and round.
places = st.integers(0, 20)
# How much of a turn at the gate is read before its client leaves.
heards = st.integers(0, len(BEFORE))


@dataclass
class Node:
    """A message that must be there; of a reply also how its turn is answered when repeated."""

    id: int
    parent: int | None
    role: str
    content: str
    status: str = "complete"
    finish: str | None = None
    answer: int = 200
    session: str | None = None


@dataclass
class Said:
    """A request with an idempotency key, and what it made."""

    body: dict[str, Any]
    headers: dict[str, str]
    question: int
    reply: int


@dataclass(eq=False)
class Chat:
    """A conversation as it must be."""

    id: str
    nodes: dict[int, Node] = field(default_factory=dict, repr=False)
    active: int | None = None
    running: Node | None = None
    said: list[Said] = field(default_factory=list, repr=False)

    def add(self, node: Node) -> Node:
        self.nodes[node.id] = node
        self.active = node.id
        return node

    def pick(self, place: int) -> Node | None:
        nodes = list(self.nodes.values())
        return nodes[place % len(nodes)] if nodes else None

    def branch(self, leaf: int | None) -> list[Node]:
        """From the first message down to this one."""
        nodes = list[Node]()
        while leaf:
            nodes.insert(0, self.nodes[leaf])
            leaf = nodes[0].parent
        return nodes

    def last_said(self, leaf: int) -> str:
        """What a model that echoes would answer to this message."""
        said = [node.content for node in self.branch(leaf) if node.role == "user"]
        return said[-1] if said else ""

    def cut_off(self, text: str, status: str, finish: str, answer: int) -> None:
        """End the running reply with what there was of its text."""
        assert self.running
        assert BEFORE.startswith(text)
        self.running.content, self.running.status = text, status
        self.running.finish, self.running.answer = finish, answer
        self.running = None

    def remove(self, gone: set[int]) -> None:
        """What hung on one that goes hangs on the nearest above it that stays."""

        def above(message_id: int | None) -> int | None:
            while message_id in gone:
                message_id = self.nodes[message_id].parent
            return message_id

        self.active = above(self.active)
        for node in self.nodes.values():
            node.parent = above(node.parent)
        self.nodes = {node.id: node for node in self.nodes.values() if node.id not in gone}
        self.said = [said for said in self.said if not gone & {said.question, said.reply}]
        if self.active is None:
            self.active = max(self.nodes, default=None)


def messages(chat: Chat) -> str:
    return f"/v1/chat/conversations/{chat.id}/messages"


def ended(row: dict[str, Any], parent: int, model: str, content: str) -> Node:
    """The reply that a turn with this model, asked this, must end with."""
    status, text, answer = ENDS[model]
    finish = "stop" if status == "complete" else "error"
    text = content if model == "echo" else text
    return Node(row["id"], parent, "assistant", text, status, finish, answer, row["session_id"])


def refused_while_running(chat: Chat, answer: httpx2.Response) -> bool:
    if chat.running is None:
        return False
    assert (answer.status_code, answer.json()["session_id"]) == (409, chat.running.session)
    return True


def check_answer(answer: httpx2.Response, reply: Node, streamed: bool) -> None:
    """A turn that has ended is answered like this, the first time and every other."""
    if streamed and reply.status != "error":
        check_stream(answer, reply)
        return
    assert answer.status_code == reply.answer
    if reply.answer == 200:
        body = answer.json()
        assert (body["assistant_message_id"], body["reply"]) == (reply.id, reply.content)


def check_stream(answer: httpx2.Response, reply: Node) -> None:
    events = Stream(answer)
    first, *_, final, done = events.rest()
    assert (first["assistant_message_id"], events.text) == (reply.id, reply.content)
    assert (final["finish_reason"], done) == (reply.finish, "[DONE]")


class Service:
    """The process, and after a restart the next one."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values
        self.process = Process(values, dev=False)

    def restart(self, number: int) -> None:
        try:
            self.process.stop(number)
        finally:
            self.process.close()
            self.process = Process(self._values, dev=False)


class Clients(RuleBasedStateMachine):
    """What clients may do. Rules act on the service and on the model; invariants compare them."""

    service: ClassVar[Service]
    upstream: ClassVar[Upstream]

    def __init__(self) -> None:
        super().__init__()
        self.known: list[Chat] = []
        self.keys = 0
        self.restarts = 0

    @property
    def client(self) -> Client:
        return self.service.process.client

    def request(self, content: str, model: str) -> tuple[dict[str, Any], dict[str, str]]:
        """A body, and headers with a key of its own."""
        self.keys += 1
        body = {"role": "user", "content": content, "model": model}
        return body, {"Idempotency-Key": f"key {self.keys}"}

    def post(self, chat: Chat, body: Any, headers: dict[str, str]) -> httpx2.Response:
        return self.client.post(messages(chat), json=body, headers=headers)

    def read_some(self, chat: Chat, body: Any, headers: dict[str, str], heard: int) -> Any:
        """Read so many characters of a turn that waits at the gate, and leave; its first event."""
        body = {**body, "stream": True}
        with self.client.stream("POST", messages(chat), json=body, headers=headers) as answer:
            events = Stream(answer)
            first = events.next()
            while len(events.text) < heard:
                events.next()
        assert BEFORE.startswith(events.text)
        return first

    def tree(self, chat: Chat) -> list[dict[str, Any]]:
        """All branches, oldest message first."""
        body = self.client.get(messages(chat), params={"all": "true"}).json()
        tree: list[dict[str, Any]] = body["messages"]
        return tree

    def new(self, chat: Chat) -> list[dict[str, Any]]:
        """What the model does not know of yet."""
        return [message for message in self.tree(chat) if message["id"] not in chat.nodes]

    def stored(self, chat: Chat) -> str:
        """What is stored of the running reply's text."""
        assert chat.running
        texts = {message["id"]: str(message["content"]) for message in self.tree(chat)}
        return texts[chat.running.id]

    @initialize()
    def create(self) -> None:
        self.known = [Chat(self.client.create()) for _ in range(CHATS)]

    @rule(chat=chats, content=contents, role=st.sampled_from(["system", "assistant"]))
    def store(self, chat: Chat, content: str, role: str) -> None:
        answer = self.client.say(chat.id, content, role=role).json()
        assert answer["reply"] is None
        chat.add(Node(answer["user_message_id"], chat.active, role, content))

    @rule(chat=chats, content=contents, model=models, streamed=st.booleans())
    def say(self, chat: Chat, content: str, model: str, streamed: bool) -> None:
        body, headers = self.request(content, model)
        answer = self.post(chat, {**body, "stream": streamed}, headers)
        if not refused_while_running(chat, answer):
            question, reply = self.new(chat)
            chat.add(Node(question["id"], chat.active, "user", content))
            chat.add(ended(reply, question["id"], model, content))
            chat.said.append(Said(body, headers, question["id"], reply["id"]))
            check_answer(answer, chat.nodes[reply["id"]], streamed)

    @rule(chat=chats, content=contents, heard=heards)
    def say_and_leave(self, chat: Chat, content: str, heard: int) -> None:
        """A turn that waits at the gate; its client reads some of it and leaves."""
        if chat.running:
            return
        body, headers = self.request(content, "gate:4")
        first = self.read_some(chat, body, headers, heard)
        question = chat.add(Node(first["user_message_id"], chat.active, "user", content))
        reply = Node(first["assistant_message_id"], question.id, "assistant", BEFORE, "streaming")
        reply.session = first["session_id"]
        chat.running = chat.add(reply)
        chat.said.append(Said(body, headers, question.id, reply.id))

    @rule(chat=chats, place=places, streamed=st.booleans(), heard=heards)
    def repeat(self, chat: Chat, place: int, streamed: bool, heard: int) -> None:
        """The same request once more, joined or replayed; nothing is added."""
        if not chat.said:
            return
        said = chat.said[place % len(chat.said)]
        reply = chat.nodes[said.reply]
        if reply is chat.running:
            first = self.read_some(chat, said.body, said.headers, heard)
            assert first["assistant_message_id"] == reply.id
        else:
            body = {**said.body, "stream": streamed}
            check_answer(self.post(chat, body, said.headers), reply, streamed)

    @rule(chat=chats, place=places, model=models, streamed=st.booleans())
    def regenerate(self, chat: Chat, place: int, model: str, streamed: bool) -> None:
        if not (node := chat.pick(place)):
            return
        path = f"/v1/chat/messages/{node.id}/regenerate"
        answer = self.client.post(path, json={"model": model, "stream": streamed})
        if refused_while_running(chat, answer):
            return
        asked = node.parent if node.role == "assistant" else node.id
        if asked is None:
            assert answer.status_code == 404
            return
        (reply,) = self.new(chat)
        chat.add(ended(reply, asked, model, chat.last_said(asked)))
        check_answer(answer, chat.nodes[reply["id"]], streamed)

    @rule(chat=chats, place=places, after=st.integers(0, 30))
    def follow(self, chat: Chat, place: int, after: int) -> None:
        """Read a reply from anywhere; one that has ended, to its end."""
        if not (node := chat.pick(place)):
            return
        path = f"/v1/chat/messages/{node.id}/stream?after={after}"
        with self.client.stream("GET", path) as answer:
            events = Stream(answer)
            if node is chat.running:
                while events.text != BEFORE[after:]:
                    events.next()
            elif node.role == "assistant":
                *_, final, done = events.rest()
                assert (events.text, done) == (node.content[after:], "[DONE]")
                assert final["finish_reason"] == node.finish
            else:
                assert answer.status_code == 404

    @precondition(lambda self: any(chat.running for chat in self.known))
    @rule()
    def open_gate(self) -> None:
        """All that wait there say the rest and end."""
        self.upstream.let_through()
        for chat in self.known:
            if reply := chat.running:
                answer = self.client.get(f"/v1/chat/messages/{reply.id}/stream")
                reply.content, reply.status, reply.finish = f"{BEFORE}rest", "complete", "stop"
                check_stream(answer, reply)
                chat.running = None

    @rule(chat=chats, place=places)
    def stop(self, chat: Chat, place: int) -> None:
        node = chat.running or chat.pick(place)
        if not (node and node.session):
            return
        body = {"session_id": node.session}
        answer = self.client.post("/v1/chat/stop-stream", json=body)
        assert answer.json() == {"message": "Stream stopped", **body}
        if node is chat.running:
            chat.cut_off(self.stored(chat), "stopped", "stopped", 200)

    @rule(chat=chats, place=places, content=contents)
    def edit(self, chat: Chat, place: int, content: str) -> None:
        if not (node := chat.pick(place)):
            return
        answer = self.client.put(f"/v1/chat/messages/{node.id}", json={"content": content})
        assert answer.status_code == (409 if node is chat.running else 200)
        if node is not chat.running:
            node.content = content

    @rule(chat=chats, chosen=st.lists(places, min_size=1, max_size=6))
    def delete_messages(self, chat: Chat, chosen: list[int]) -> None:
        nodes = [node for place in chosen if (node := chat.pick(place))]
        gone = {node.id for node in nodes}
        answer = self.client.post("/v1/chat/messages/delete", json={"message_ids": sorted(gone)})
        if chat.running in nodes:
            assert answer.status_code == 409
        else:
            assert answer.json() == {"message": f"{len(gone)} messages deleted"}
            chat.remove(gone)

    @rule(chat=chats, place=places)
    def switch(self, chat: Chat, place: int) -> None:
        if node := chat.pick(place):
            path, body = f"/v1/chat/conversations/{chat.id}", {"active_message_id": node.id}
            assert self.client.put(path, json=body).status_code == 200
            chat.active = node.id

    @rule(chat=chats)
    def delete(self, chat: Chat) -> None:
        """Delete a conversation that has grown; another takes its place."""
        if len(chat.nodes) > 8:
            self.replace(chat)

    def replace(self, chat: Chat) -> None:
        path = f"/v1/chat/conversations/{chat.id}"
        assert self.client.delete(path).json() == {"message": "Conversation deleted"}
        assert self.client.get(messages(chat)).status_code == 404
        self.known[self.known.index(chat)] = Chat(self.client.create())

    @precondition(lambda self: self.restarts < MOST_RESTARTS)
    @rule(chat=chats, heard=heards, number=st.sampled_from([signal.SIGKILL, signal.SIGTERM]))
    def restart(self, chat: Chat, heard: int, number: int) -> None:
        """End the service, one way or the other, while at least one turn is running."""
        self.restarts += 1
        self.say_and_leave(chat, "until the end", heard)
        self.service.restart(number)
        for chat in self.known:
            if chat.running:
                chat.cut_off(self.stored(chat), "interrupted", "error", 503)

    @invariant()
    def every_history_is_as_the_model_says(self) -> None:
        for chat in self.known:
            branch = [node.id for node in chat.branch(chat.active)]
            tree = self.tree(chat)
            if reply := chat.running:
                (shown,) = (message for message in tree if message["id"] == reply.id)
                assert BEFORE.startswith(shown["content"])
                shown["content"] = BEFORE
            names = ("id", "parent_id", "role", "content", "status", "active")
            assert [tuple(message[name] for name in names) for message in tree] == [
                (node.id, node.parent, node.role, node.content, node.status, node.id in branch)
                for node in chat.nodes.values()
            ]
            assert [message["id"] for message in self.client.history(chat.id)] == branch

    def teardown(self) -> None:
        for chat in self.known:
            assert self.client.delete(f"/v1/chat/conversations/{chat.id}").status_code == 200


def test_history_is_what_a_plain_model_says(tmp_path: Path, upstream: Upstream) -> None:
    Clients.service, Clients.upstream = Service(environment(tmp_path, upstream)), upstream
    try:
        run_state_machine_as_test(
            Clients,
            settings=settings(
                max_examples=12,
                stateful_step_count=40,
                deadline=None,
                print_blob=True,
                # Shrinking would restart the service for minutes; forty steps can be read.
                phases=[Phase.reuse, Phase.generate],
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
    finally:
        Clients.service.process.close()
