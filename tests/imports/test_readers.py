"""Whatever stands in whatever place of an export, its reader gives a chat or says what is wrong."""

import io
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from errors import Invalid
from imports import chatgpt, claude, librechat, open_webui, pieces
from imports.chats import Chat, Node, fenced, moment
from tests.imports.test_programs import EXPORTS, FILES

LARGEST = 1_000_000
PROGRAMS = {program.SOURCE: program for program in (chatgpt, claude, librechat, open_webui)}
ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**63, 10**400, 1e308, float("nan"), float("-inf")),
    *("", "x", "\ud800", "\0", "9999-12-31T23:59:59-23:00", "2024-01-01\ud80000:00"),
    *([], {}, [[]], [{}], [None], ["x"], {"a": 1}),
)
values = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)


def conversations(source: str) -> list[dict[str, Any]]:
    files = [io.BytesIO(path.read_bytes()) for path in FILES if path.parent.name == source]
    spans = [(file, span) for file in files for span in pieces.items(file, (0, LARGEST))]
    chats = [pieces.decode(file, span) for file, span in spans]
    return [chat for chat in chats if isinstance(chat, dict)]


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [(*above, name) for name, _ in inner]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for name, item in inner:
        if isinstance(item, dict | list):
            found += places(item, (*above, name))
    return found


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """A copy of the value with something else in this place."""
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = replaced(value[place[0]], place[1:], new)
    return copy


def check(source: str, item: dict[str, Any]) -> None:
    try:
        chat: Chat = PROGRAMS[source].read(item)
        nodes, leaf = chat.tree()
    except Invalid:
        return
    ids = [node.id for node in nodes]
    assert leaf in ids
    assert all(node.parent in {None, *ids[:at]} for at, node in enumerate(nodes))


@pytest.mark.parametrize("source", PROGRAMS)
def test_an_odd_value_in_any_place_is_no_surprise(source: str) -> None:
    assert (EXPORTS / source).is_dir()
    for item in conversations(source)[:4]:
        for place in places(item):
            for odd in ODD:
                check(source, replaced(item, place, odd))


@pytest.mark.parametrize("source", PROGRAMS)
@given(st.data())
def test_any_values_in_any_places_are_no_surprise(source: str, data: st.DataObject) -> None:
    item = data.draw(st.sampled_from(conversations(source)))
    for _ in range(data.draw(st.integers(1, 4))):
        if found := places(item):
            item = replaced(item, data.draw(st.sampled_from(found)), data.draw(values))
    check(source, item)


@given(values)
@example(1e300)
def test_a_time_is_a_time_or_none(value: Any) -> None:
    assert (moment(value) or "0001-01-01T00:00:00.000000Z")[-1] == "Z"


def test_a_number_that_counts_no_seconds_is_no_time() -> None:
    assert moment(1_700_000_000_000_000) == moment(1_700_000_000) == "2023-11-14T22:13:20.000000Z"
    assert moment(1e300) is None


def test_code_stands_in_a_fence_longer_than_any_in_it() -> None:
    assert fenced("a") == "```\na\n```"
    assert fenced("`" * 1_000_000).partition("\n")[0] == "`" * 1_000_001


def test_thoughts_belong_to_one_reply_however_many_follow() -> None:
    """They were copied to each: a megabyte of them and a thousand replies filled the memory."""
    replies = [Node(f"r{number}", "t", "assistant", "text") for number in range(3)]
    chat = Chat("chatgpt", "c", [Node("t", None, reasoning="hm"), *replies])
    assert [node.reasoning for node in chat.tree()[0]] == ["hm", "", ""]


def test_thoughts_come_together_and_stay_in_their_branch() -> None:
    nodes = [
        Node("a", None, "user", "q"),
        Node("t1", "a", reasoning="one"),
        Node("t2", "t1", reasoning="two"),
        Node("r", "t2", "assistant", "text"),
        Node("lost", "a", reasoning="of no reply"),
        Node("other", "a", "assistant", "other"),
    ]
    kept = Chat("chatgpt", "c", nodes).tree()[0]
    assert [node.reasoning for node in kept] == ["", "one\n\ntwo", ""]
