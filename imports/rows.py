"""A file of our own export format, and what each row in it must look like."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import BaseModel, StringConstraints, create_model
from sqlmodel import Field, SQLModel

import interchange
from errors import Invalid
from fields import Body, Id, Label, ProjectId, Time
from imports import pieces
from imports.files import JsonFile
from models import (
    Category,
    Conversation,
    Document,
    DocumentReference,
    Draft,
    Message,
    MessageStatus,
    PoePoints,
    Project,
    Source,
)

LONGEST_HEAD = 1000
MOST_BLANKS = 1000
CUT_OFF = "The export was made before the reply ended"
# Numbers of rows that are kept. AUTOINCREMENT goes on from the highest: there must be room above.
RowId = Annotated[int, Field(ge=1, lt=2**53)]
LongId = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
Object = dict[str, Any] | None
Item = dict[str, Any]


class Archive:
    """A file of the format: its head, and the items of its lists one by one, in any order."""

    def __init__(self, file: JsonFile, places: dict[str, pieces.Span]) -> None:
        self._file = file.file
        self.lists: dict[str, pieces.Span] = {}
        self.head: Item = {}
        for name, (begin, end) in places.items():
            if pieces.read(self._file, (begin, min(end, begin + MOST_BLANKS)))[:1] == b"[":
                self.lists[name] = begin, end
            elif end - begin < LONGEST_HEAD:
                self.head[name] = pieces.decode(self._file, (begin, end))

    @classmethod
    def open(cls, file: JsonFile) -> Self | None:
        """The file's own reading, if it is an export of ours. Invalid if of another version."""
        begin, end = file.span
        if pieces.read(file.file, (begin, min(end, begin + MOST_BLANKS)))[:1] != b"{":
            return None
        try:
            archive = cls(file, pieces.members(file.file, (begin, end)))
        except (ValueError, RecursionError):
            return None
        if archive.head.get("format") != interchange.FORMAT:
            return None
        if archive.head.get("version") != interchange.FORMAT_VERSION:
            raise Invalid(f"must be {interchange.FORMAT_VERSION}", field="version")
        return archive

    def items(self, name: str) -> Iterator[tuple[Any, int]]:
        """The items of a list, each with its size; none where there is no such list.

        One that cannot be read is an error in its place.
        """
        for begin, end in pieces.items(self._file, self.lists.get(name, (0, 0))):
            if not (data := pieces.read(self._file, (begin, end))):
                continue
            try:
                yield json.loads(data), end - begin
            except (ValueError, RecursionError) as error:
                yield error, end - begin


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
    "points": _shape(PoePoints, id=RowId, query_id=Label),
    "conversations": _shape(
        Conversation, id=LongId, project_id=ProjectId, deleted_external_ids=list[str] | None
    ),
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
