"""A file of the export format, read piece by piece, and what each row in it must look like."""

import json
import re
from collections import Counter
from collections.abc import Generator, Iterator
from typing import IO, Annotated, Any

from pydantic import BaseModel, StringConstraints, create_model
from sqlmodel import Field, SQLModel

import interchange
from errors import Invalid
from fields import Body, Id, Label, ProjectId, Time
from models import (
    Category,
    Conversation,
    Document,
    DocumentReference,
    Draft,
    Message,
    MessageStatus,
    Project,
    Source,
)

BLANK = re.compile(r"[ \t\r\n]*")
CUT_OFF = "The export was made before the reply ended"
# Numbers of rows that are kept. AUTOINCREMENT goes on from the highest: there must be room above.
RowId = Annotated[int, Field(ge=1, lt=2**53)]
LongId = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
Object = dict[str, Any] | None
Item = dict[str, Any]


class Archive:
    """A file of the format, read through once; then its items one by one, in any order."""

    def __init__(self, file: IO[bytes]) -> None:
        self._decode = json.JSONDecoder().raw_decode
        self._lists: dict[str, int] = {}
        self.counts = Counter[str]()
        self.head: dict[str, Any] = {}
        try:
            self._text = file.read().decode("utf-8-sig")
            self._read_through()
        except (ValueError, RecursionError):
            raise Invalid("is not JSON that can be read", field="body") from None

    def items(self, name: str) -> Iterator[Any]:
        """The items of a list; none where there is no such list."""
        if name in self._lists:
            yield from self._list(self._lists[name])

    def _read_through(self) -> None:
        at = self._after("{", 0)
        while self._text[at : at + 1] != "}":
            name, at = self._decode(self._text, at)
            at = self._after(":", at)
            if self._text[at : at + 1] == "[":
                self._lists[name] = at
                at = self._count(name, self._list(at))
            else:
                self.head[name], at = self._decode(self._text, at)
            at = self._after(",", at, last="}")
        if self._after("}", at) != len(self._text):
            raise ValueError

    def _list(self, at: int) -> Generator[Any, None, int]:
        at = self._after("[", at)
        while self._text[at : at + 1] != "]":
            item, at = self._decode(self._text, at)
            yield item
            at = self._after(",", at, last="]")
        return at + 1

    def _count(self, name: str, items: Generator[Any, None, int]) -> int:
        while True:
            try:
                next(items)
            except StopIteration as end:
                at: int = end.value
                return at
            self.counts[name] += 1

    def _after(self, sign: str, at: int, last: str | None = None) -> int:
        """The place behind a sign and the blanks around it; before `last`, where that comes."""
        at = self._blanks(at)
        found = self._text[at : at + 1]
        if last is not None and found == last:
            return at
        if found != sign:
            raise ValueError
        return self._blanks(at + 1)

    def _blanks(self, at: int) -> int:
        match = BLANK.match(self._text, at)
        return match.end() if match else at


def _shape(table: type[SQLModel], **kinds: Any) -> type[BaseModel]:
    """What a row of this table must look like in a file: tables themselves check nothing."""
    fields: dict[str, Any] = {}
    for column in interchange.columns(table):
        kind = kinds.get(column.key, table.model_fields[column.key].annotation)
        if column.key.endswith(("_at", "_time")):
            kind = Time | None if column.nullable else Time
        fields[column.key] = (kind, None if column.nullable else ...)
    return create_model(f"{table.__name__}Row", __base__=Body, **fields)


SHAPES: dict[str, type[BaseModel]] = {
    "projects": _shape(Project, id=Id, name=Label),
    "categories": _shape(Category, id=RowId, name=Label, auto_save_category_id=RowId | None),
    "documents": _shape(
        Document,
        id=RowId,
        project_id=ProjectId,
        category_id=RowId,
        filename=Label,
        source=Source,
        message_ids=list[int] | None,
        usage=Object,
    ),
    "references": _shape(DocumentReference, id=RowId, project_id=ProjectId, document_id=RowId),
    "drafts": _shape(
        Draft,
        id=RowId,
        project_id=ProjectId,
        category_id=RowId,
        filename=Label,
        status=MessageStatus,
        document_id=None,
        message_ids=list[int] | None,
        usage=Object,
        extra=Object,
    ),
    "conversations": _shape(Conversation, id=LongId, project_id=ProjectId),
}
MESSAGE = _shape(
    Message,
    id=RowId,
    parent_id=RowId | None,
    role=Label,
    status=MessageStatus,
    parts=list[dict[str, Any]] | None,
    usage=Object,
    request=Object,
    extra=Object,
)


def row_of(name: str, item: Any) -> Item:
    """A row of one of the lists, checked."""
    return _ended(SHAPES[name].model_validate(item).model_dump())


def message_of(item: Any, conversation_id: str) -> Item:
    """A message of this conversation, checked."""
    row = MESSAGE.model_validate(item).model_dump()
    if row["conversation_id"] != conversation_id:
        raise Invalid("must be that of the conversation", field="conversation_id")
    return _ended(row)


def _ended(row: Item) -> Item:
    """What was being written when the file was; nobody writes it on."""
    if row.get("status") == "streaming":
        row |= {"status": "interrupted", "error": CUT_OFF, "error_status": 503}
    return row
