"""A file read piece by piece gives what reading it whole gives."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imports import pieces

texts = st.text() | st.sampled_from(['"', "\\", '\\"', "[{,:}]", "\\\\", "你好\n", "\ud800"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
# Around the size of what is read at once, every sign comes to stand at its edge.
fillings = st.integers(pieces.CHUNK - 40, pieces.CHUNK + 5)


def all_items(data: bytes) -> list[bytes]:
    file = io.BytesIO(data)
    return [pieces.read(file, span) for span in pieces.items(file, (0, len(data)))]


@given(st.lists(values, max_size=5), st.booleans(), st.sampled_from([None, 1]), fillings)
def test_the_items_of_an_array_are_its_items(
    array: list[Any], ascii_: bool, indent: int | None, filling: int
) -> None:
    data = json.dumps(["x" * filling, *array], ensure_ascii=ascii_, indent=indent)
    encoded = data.encode("utf-8", "surrogatepass") if ascii_ else data.encode(errors="replace")
    assert [json.loads(item) for item in all_items(encoded)] == json.loads(encoded)


@given(st.lists(st.dictionaries(texts, values, max_size=3), max_size=5))
def test_objects_a_line_are_items_too(objects: list[Any]) -> None:
    data = "\n".join(json.dumps(item) for item in objects).encode()
    assert [json.loads(item) for item in all_items(data)] == objects


@given(st.dictionaries(texts.filter(lambda name: len(name) < 20), values, max_size=5))
def test_the_members_of_an_object_are_its_members(item: dict[str, Any]) -> None:
    data = json.dumps(item, indent=1).encode()
    file = io.BytesIO(data)
    places = pieces.members(file, (0, len(data)))
    assert {name: pieces.decode(file, place) for name, place in places.items()} == item


@pytest.mark.parametrize("data", [b"[1", b'[1,"', b"[1]]", b'[1,"\\', b"{", b"[{}", b"]", b'"'])
def test_what_breaks_off_is_told(data: bytes) -> None:
    with pytest.raises(pieces.BrokenJson):
        all_items(data)


def test_what_comes_before_the_break_is_given() -> None:
    file = io.BytesIO(b'[{"a": 1}, {"b": 2}, {"c"')
    found = pieces.items(file, (0, 25))
    assert [pieces.decode(file, next(found)) for _ in range(2)] == [{"a": 1}, {"b": 2}]
    with pytest.raises(pieces.BrokenJson):
        next(found)


def test_a_million_brackets_are_one_item() -> None:
    (item,) = all_items(b"[" * 1_000_000 + b"]" * 1_000_000)
    assert len(item) == 1_999_998
