"""Every table, and the shapes of what goes in and out.

One family after another: `XFields` holds what callers give and answers repeat, `XCreate` and
`XUpdate` are request bodies (strict: unknown fields and wrong types are refused), `XPublic` is an
answer, and `X` is the table, with the columns that stay inside. Table classes are never validated,
so none is ever a route's input.
"""

from typing import Annotated, Any, Literal, Self
from uuid import uuid4

from annotated_types import Ge, Le, Len
from pydantic import BaseModel, ConfigDict, Discriminator, StringConstraints, Tag, model_validator
from sqlalchemy import JSON, Index, TypeDecorator, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from fields import (
    MAX_VERSION,
    UNSET,
    WHOLE,
    Body,
    Id,
    IdOrZero,
    Label,
    Options,
    ProjectId,
    Time,
    Update,
    now,
    refuse_unstorable,
)

NO_PROJECT = "其它"

Source = Literal["user", "server", "chat"]
MessageStatus = Literal["streaming", "complete", "stopped", "interrupted", "error"]
Archived = Annotated[int, Ge(0), Le(1), WHOLE, Field(description="0 normal, 1 archived")]


class Json(TypeDecorator[Any]):
    """A JSON column in which Python's None is SQL's NULL."""

    impl = JSON(none_as_null=True)
    cache_ok = True


class Done(SQLModel):
    """What a change without a result of its own answers."""

    message: str


# Projects


class ProjectFields(SQLModel):
    dev_environment: str | None = Field(default=None, description="The `{env}` of templates.")
    llm_model: Label | None = Field(default=None, description="Default model of its conversations.")
    grpc_server_address: str | None = None
    llm_url: str | None = None
    git_work_dir: str | None = None
    ai_work_dir: str | None = None


class ProjectCreate(Body, ProjectFields):
    name: Label


class ProjectUpdate(Update, ProjectFields):
    name: Label = UNSET


class ProjectPublic(ProjectFields):
    id: int
    name: str
    created_time: Time
    updated_time: Time


class Project(ProjectFields, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    created_time: str = Field(default_factory=now)
    updated_time: str = Field(default_factory=now)


# Conversations


class ConversationFields(SQLModel):
    name: Label | None = None
    system_prompt: str | None = None
    model: Label | None = None
    assistance_role: str | None = None


class ConversationCreate(Body, ConversationFields):
    status: Archived = 0
    project_id: ProjectId = Field(default=0, description="0: no project")


class ConversationUpdate(Update, ConversationFields):
    status: Archived = 0
    project_id: ProjectId = 0
    active_message_id: Id = Field(
        default_factory=int, description="The message at which the active branch is to end."
    )


class ConversationCreated(SQLModel):
    conversation_id: str


class ConversationPublic(ConversationFields):
    conversation_id: str
    id: str = Field(description="The same as `conversation_id`.")
    status: int
    project_id: int
    project_name: str
    active_message_id: int | None = Field(description="The last message of the active branch.")
    created_at: Time
    updated_at: Time


class Conversation(ConversationFields, table=True):
    __table_args__ = (
        UniqueConstraint("source", "external_id"),
        Index("ix_conversation_recent", "updated_at"),
        Index("ix_conversation_project", "project_id", "updated_at"),
    )

    id: str = Field(default_factory=lambda: str(uuid4()), primary_key=True)
    status: int = 0
    project_id: int = 0
    active_message_id: int | None = None
    source: str | None = None
    external_id: str | None = None
    # Those of imported messages that were deleted here: a later import leaves them out.
    deleted_external_ids: Any = Field(default=None, sa_type=Json, nullable=True)
    created_at: str = Field(default_factory=now)
    updated_at: str = Field(default_factory=now)


# Messages


class OpenPart(SQLModel):
    """An OpenAI content part: fields beyond the declared ones are kept and sent on."""

    model_config = ConfigDict(extra="allow")  # type: ignore[assignment]


class TextPart(OpenPart):
    type: Literal["text"]
    text: str


class ImageUrl(OpenPart):
    url: str


class ImagePart(OpenPart):
    type: Literal["image_url"]
    image_url: ImageUrl


class FilePart(OpenPart):
    type: Literal["file"]
    file: dict[str, Any]


Part = Annotated[TextPart | ImagePart | FilePart, Field(discriminator="type")]
Content = Annotated[
    Annotated[str, StringConstraints(min_length=1), Tag("text")]
    | Annotated[list[Part], Len(1, 1000), Tag("parts")],
    Discriminator(lambda value: "parts" if isinstance(value, list) else "text"),
]


class MessageCreate(Body):
    role: Literal["user", "assistant", "system"]
    content: Content
    model: Label | None = None
    stream: bool = False
    documents: Annotated[list[Id], Len(0, 1000)] = Field(
        default=[], description="Documents added to this turn's context."
    )
    system_prompt_append: str | None = Field(
        default=None, description="Text added to this turn's system prompt."
    )
    options: Options = Field(default={}, description="Handed to the model call as they are.")
    parent_id: IdOrZero | None = Field(
        default=None,
        description="The message to continue from, 0 for the start; by default the last one.",
    )

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if self.role != "user" and (self.documents or self.system_prompt_append or self.options):
            raise ValueError("only a user's message can have documents, options or appended text")
        return self


class Regenerate(Body):
    model: Label | None = None
    stream: bool = False
    options: Options | None = Field(
        default=None, description="Instead of those the turn was first asked with."
    )


class MessageUpdate(Update):
    content: Content
    created_at: Time = UNSET


class MessagePublic(SQLModel):
    """One message of a history; the system prompt stands first, with id 0."""

    id: int
    role: str
    content: str
    parts: list[dict[str, Any]] | None = Field(
        default=None, description="The content parts, where content was given as a list."
    )
    reasoning: str | None = None
    model: str | None = None
    provider: str | None = None
    status: MessageStatus = "complete"
    finish_reason: str | None = None
    error: str | None = None
    usage: dict[str, Any] | None = None
    cost: float | None = Field(default=None, description="In USD, where the provider tells it.")
    points: int | None = Field(default=None, description="Poe's price, where it is known.")
    omitted: int | None = Field(
        default=None, description="Messages left out because the chat was too long for the model."
    )
    extra: dict[str, Any] | None = Field(
        default=None, description="Further fields of an OpenAI message, such as `tool_calls`."
    )
    session_id: str | None = Field(default=None, description="The handle that stops a reply.")
    created_at: Time
    updated_at: Time
    parent_id: int | None = None


class TreeMessage(MessagePublic):
    """A message among all branches; `active` says whether history shows it."""

    active: bool


class Message(SQLModel, table=True):
    """One node of a conversation's tree; a reply's row exists before its upstream is asked."""

    __table_args__ = (
        UniqueConstraint("source", "external_id"),
        UniqueConstraint("conversation_id", "idempotency_key"),
        Index("ix_message_running", "status", sqlite_where=text("status = 'streaming'")),
        # By these a growing history finds the conversation it continues.
        Index(
            "ix_message_reply",
            text("substr(trim(content, char(32, 9, 10, 11, 12, 13)), 1, 64)"),
            sqlite_where=text("role = 'assistant'"),
        ),
        Index(
            "ix_message_tool_call",
            text("json_extract(extra, '$.tool_calls[0].id')"),
            sqlite_where=text("extra IS NOT NULL"),
        ),
        Index(
            "ix_message_turn",
            "source",
            "created_at",
            sqlite_where=text("provider IS NOT NULL"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, primary_key=True)
    conversation_id: str = Field(foreign_key="conversation.id", ondelete="CASCADE", index=True)
    parent_id: int | None = Field(default=None, foreign_key="message.id", index=True)
    role: str
    content: str = ""
    parts: Any = Field(default=None, sa_type=Json, nullable=True)
    reasoning: str | None = None
    model: str | None = None
    provider: str | None = None
    status: str = "complete"
    finish_reason: str | None = None
    error: str | None = None
    error_status: int | None = None
    usage: Any = Field(default=None, sa_type=Json, nullable=True)
    cost: float | None = None
    points: int | None = None
    session_id: str | None = Field(default=None, unique=True)
    # What the turn was asked with besides its message: documents, system_prompt_append, options.
    request: Any = Field(default=None, sa_type=Json, nullable=True)
    # Fields of an OpenAI message beyond role and content: tool_calls, tool_call_id, name, refusal.
    extra: Any = Field(default=None, sa_type=Json, nullable=True)
    omitted: int | None = None
    idempotency_key: str | None = None
    idempotency_hash: str | None = None
    source: str | None = None
    external_id: str | None = None
    created_at: str = Field(default_factory=now)
    updated_at: str = Field(default_factory=now)


class MessageIds(Body):
    message_ids: Annotated[list[Id], Len(0, 10_000)]


class History(SQLModel):
    conversation_id: str
    messages: list[MessagePublic] | list[TreeMessage]


class TurnAnswer(SQLModel):
    """The answer to a turn that is not streamed."""

    conversation_id: str
    reply: str | None = Field(description="null where nothing was asked.")
    user_message_id: int
    assistant_message_id: int | None
    session_id: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    omitted: int | None = None


class OpenAICall(BaseModel):
    """A call of OpenAI's API: what the service reads of it; the rest is kept as it came."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str | None = None
    stream: bool | None = None
    store: bool | None = None
    metadata: Any = None

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, data: Any) -> Any:
        refuse_unstorable(data)
        return data

    def body(self) -> dict[str, Any]:
        """The call as it was sent."""
        return self.model_dump(exclude_unset=True)


class ProviderAnswer(BaseModel):
    """What the provider answered, as it came."""

    model_config = ConfigDict(extra="allow")


class ListedModel(BaseModel):
    """A model as its provider lists it, under the name to ask it by."""

    model_config = ConfigDict(extra="allow")

    id: str
    created: int = Field(description="In seconds.")


class ModelList(SQLModel):
    object: Literal["list"]
    data: list[ListedModel]


class StopStream(Body):
    session_id: str


class Stopped(Done):
    session_id: str


# Event streams


class StreamError(SQLModel):
    """Why a reply ended too early."""

    detail: str
    status: int | None = None


class TurnEvent(SQLModel):
    """One event of a stream: the JSON after `data: `. The last is followed by `data: [DONE]`."""

    model_config = ConfigDict(extra="forbid")  # type: ignore[assignment]

    content: str = Field(description="What to append to the reply; often empty.")
    reasoning: str | None = Field(default=None, description="The same for the model's thoughts.")
    user_message_id: int | None = Field(default=None, description="In the first event.")
    assistant_message_id: int | None = Field(default=None, description="In the first event.")
    conversation_id: str | None = Field(default=None, description="In the first event.")
    session_id: str | None = Field(default=None, description="The handle that stops the reply.")
    draft_id: int | None = Field(default=None, description="Of a document in the making.")
    finish_reason: str | None = Field(default=None, description="In the last event.")
    usage: dict[str, Any] | None = None
    omitted: int | None = Field(
        default=None, description="Messages left out because the chat was too long for the model."
    )
    error: StreamError | None = None
    document_id: int | None = Field(default=None, description="The document that was stored.")
    version: int | None = Field(default=None, description="The version that it got.")


# Plan categories


class CategoryFields(SQLModel):
    prompt_template: str = Field(
        default="", description="`{doc}` and `{env}` stand for chat and environment."
    )
    message_method: str = Field(default="PlanGetRequest", max_length=255)
    auto_save_category_id: Id | None = None
    summary_model: Label | None = None


class CategoryCreate(Body, CategoryFields):
    name: Label


class CategoryUpdate(Update, CategoryFields):
    name: Label = UNSET


class CategoryPublic(CategoryFields):
    id: int
    name: str
    is_builtin: bool
    created_time: Time
    updated_time: Time


class Category(CategoryFields, table=True):
    __tablename__ = "plan_category"
    __table_args__ = {"sqlite_autoincrement": True}

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    is_builtin: bool = False
    auto_save_category_id: int | None = Field(
        default=None, foreign_key="plan_category.id", ondelete="SET NULL"
    )
    created_time: str = Field(default_factory=now)
    updated_time: str = Field(default_factory=now)


# Plan documents


class DocumentCreate(Body):
    project_id: ProjectId = 0
    category_id: Id
    filename: Label
    content: str
    version: Annotated[int, Ge(1), Le(MAX_VERSION), WHOLE] | None = Field(
        default=None, description="Kept when it is free, else the next free number is given."
    )
    source: Source = "user"
    related_log_id: IdOrZero | None = None


class DocumentUpdate(Update):
    filename: Label = UNSET
    content: str = UNSET
    source: Source = "user"


class DocumentPublic(SQLModel):
    id: int
    project_id: int
    category_id: int
    filename: str
    content: str
    version: int
    source: Source
    related_log_id: int | None
    conversation_id: str | None = Field(default=None, description="The chat it was made from.")
    message_ids: list[int] | None = None
    template_hash: str | None = Field(default=None, description="SHA-256 of the template used.")
    model: str | None = None
    usage: dict[str, Any] | None = None
    stale: bool = Field(default=False, description="The messages it was made from have changed.")
    created_time: Time
    updated_time: Time


class Document(SQLModel, table=True):
    """One version of a document; a document is known by project, category and filename."""

    __tablename__ = "plan_document"
    __table_args__ = (
        UniqueConstraint("project_id", "category_id", "filename", "version"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, primary_key=True)
    project_id: int = 0
    category_id: int = Field(foreign_key="plan_category.id", index=True)
    filename: str
    content: str
    version: int = 1
    source: str = "user"
    related_log_id: int | None = None
    # Where a generated document came from; no foreign key: it stays true when the chat is gone.
    conversation_id: str | None = None
    message_ids: Any = Field(default=None, sa_type=Json, nullable=True)
    read_at: str | None = None
    template_hash: str | None = None
    model: str | None = None
    usage: Any = Field(default=None, sa_type=Json, nullable=True)
    created_time: str = Field(default_factory=now)
    updated_time: str = Field(default_factory=now)


class DocumentPage(SQLModel):
    total: int
    page: int
    page_size: int
    items: list[DocumentPublic]


class DocumentIds(Body):
    document_ids: Annotated[list[Id], Len(1, 1000)]


class Merged(SQLModel):
    count: int
    merged: str


class Diff(SQLModel):
    document_id: int
    against: int | None = Field(description="null where there is no version before.")
    diff: str


class MigrateHistory(Body):
    project_id: ProjectId = 0
    source_category_id: Id
    target_category_id: Id
    filename: Label


class MigratedHistory(Done):
    migrated_count: int
    target_category_id: int
    filename: str
    start_version: int
    end_version: int


class MigrateCurrent(Body):
    document_id: Id
    target_category_id: Id
    new_filename: Label | None = None
    source: Source = "user"


class Generate(Body):
    """What a document is to be made from; what is left out the category and the chat decide."""

    conversation_id: Annotated[str, StringConstraints(min_length=1)]
    category_id: Id
    filename: Label | None = None
    model: Label | None = None
    stream: bool = False
    message_ids: Annotated[list[Id], Len(1, 10_000)] | None = None


class DraftPublic(SQLModel):
    """A document that a model is writing, or was writing when it was cut off."""

    id: int
    project_id: int
    category_id: int
    filename: str
    content: str
    status: MessageStatus
    error: str | None
    session_id: str
    conversation_id: str
    created_time: Time
    updated_at: Time


class Draft(SQLModel, table=True):
    """A document while it is written; it becomes a version only when it is whole."""

    __tablename__ = "plan_draft"
    __table_args__ = (
        Index("ix_draft_running", "status", sqlite_where=text("status = 'streaming'")),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, primary_key=True)
    project_id: int
    category_id: int = Field(foreign_key="plan_category.id", index=True)
    filename: str
    conversation_id: str
    message_ids: Any = Field(default=None, sa_type=Json, nullable=True)
    template_hash: str
    document_id: int | None = None
    content: str = ""
    reasoning: str | None = None
    extra: Any = Field(default=None, sa_type=Json, nullable=True)
    model: str | None = None
    provider: str | None = None
    status: str = "streaming"
    finish_reason: str | None = None
    error: str | None = None
    error_status: int | None = None
    usage: Any = Field(default=None, sa_type=Json, nullable=True)
    cost: float | None = None
    points: int | None = None
    omitted: int | None = None
    session_id: str = Field(unique=True)
    created_time: str = Field(default_factory=now)
    updated_at: str = Field(default_factory=now)


class ReferencePublic(SQLModel):
    """A reference with the very version of the document that was referenced."""

    id: int
    project_id: int
    conversation_id: str | None
    document_id: int
    reference_type: Literal["project", "conversation"]
    document_filename: str
    document_content: str
    document_version: int
    document_created_time: Time


class ReferenceIds(Body):
    document_ids: Annotated[list[Id], Len(0, 1000)]


class ReferencesChanged(Done):
    added_count: int
    removed_count: int
    current_references: list[ReferencePublic]


class ReferencedDocuments(SQLModel):
    conversation_id: str
    project_references: list[ReferencePublic]
    conversation_references: list[ReferencePublic]


class ContextPublic(SQLModel):
    """What the next turn would send before its own message."""

    conversation_id: str
    messages: list[dict[str, Any]]
    characters: int
    estimated_tokens: int = Field(description="A rough guess; each model counts in its own way.")


class DocumentReference(SQLModel, table=True):
    """A document that every turn of a project, or of one conversation, is given to read."""

    __tablename__ = "document_reference"
    __table_args__ = (
        Index("ix_reference_project", "project_id", "document_id"),
        UniqueConstraint("conversation_id", "document_id"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, primary_key=True)
    project_id: int
    conversation_id: str | None = Field(
        default=None, foreign_key="conversation.id", ondelete="CASCADE"
    )
    document_id: int = Field(foreign_key="plan_document.id", ondelete="CASCADE", index=True)
    reference_type: str
    created_time: str = Field(default_factory=now)


# Search


class Found(SQLModel):
    """What every result of a search has."""

    id: int
    project_id: int
    created_at: Time
    snippet: str
    hits: list[tuple[int, int]] = Field(
        description="Where the words are in the snippet: from and to, in code points."
    )
    score: float


class MessageFound(Found):
    type: Literal["message"] = "message"
    conversation_id: str
    conversation_name: str | None
    role: str


class DocumentFound(Found):
    type: Literal["document"] = "document"
    category_id: int
    filename: str
    version: int


class SearchPage(SQLModel):
    query: str
    results: list[MessageFound | DocumentFound]
    next_offset: int | None = Field(description="null where there is no more.")


# Usage

GroupBy = Literal["day", "model", "provider", "conversation", "project"]


class UsageSums(SQLModel):
    """Sums over turns; tokens under OpenAI's names."""

    turns: int = 0
    complete: int = 0
    stopped: int = 0
    failed: int = Field(default=0, description="Ended in an error, or interrupted.")
    running: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = Field(default=0, description="The reasoning tokens among them.")
    reasoning_tokens: int = 0
    total_tokens: int = 0
    estimated_turns: int = Field(
        default=0, description="Whose provider told no tokens: those of the text are guessed."
    )
    estimated_tokens: int = Field(
        default=0, description="How many of the completion tokens are guessed."
    )
    priced_turns: int = Field(default=0, description="Whose cost is known, in USD or in points.")
    cost_usd: float | None = Field(default=None, description="null where no cost is known.")
    points: int | None = Field(default=None, description="Poe's; null where none are known.")


class UsageKey(SQLModel):
    """What a group is: one of these, by `group_by`."""

    day: str | None = Field(default=None, description="In the time zone of the server.")
    provider: str | None = None
    model: str | None = None
    conversation_id: str | None = None
    conversation_name: str | None = None
    project_id: int | None = None
    project_name: str | None = None


class UsageGroup(UsageSums, UsageKey):
    pass


class UsageReport(SQLModel):
    group_by: GroupBy
    since: Time | None = Field(serialization_alias="from")
    until: Time | None = Field(serialization_alias="to")
    groups: list[UsageGroup]
    total: UsageSums
    unmatched_points: int = Field(
        description="Points that Poe took for what is no turn here, or cannot be told which."
    )


class Balance(SQLModel):
    provider: Literal["poe"] = "poe"
    current_point_balance: int


class Reconciled(SQLModel):
    """What came of asking Poe for its points."""

    added: int = Field(description="Rows that were not known.")
    matched: int = Field(description="Turns whose price is known now.")
    skipped: int = Field(description="Rows that could not be understood.")


class PoePoints(SQLModel, table=True):
    """A call and its price, as Poe tells it; Poe itself forgets after 30 days."""

    __tablename__ = "poe_points"

    id: int | None = Field(default=None, primary_key=True)
    query_id: str = Field(unique=True)
    bot_name: str
    usage_type: str
    cost_points: int
    cost_usd: float | None = None
    # Whether a turn was found that it is the price of, or False where more than one might be.
    matched: bool | None = None
    created_at: str


# Moving


class Skipped(SQLModel):
    kind: str
    id: str | None
    reason: str


class Imported(SQLModel):
    """What came of a file: how many of each kind, and what could not be stored."""

    added: dict[str, int]
    existing: dict[str, int] = Field(description="There already, and left as they are.")
    left_out: dict[str, int] = Field(
        description="What the conversations that were added had, and cannot be kept."
    )
    skipped: list[Skipped] = Field(description="The first thousand.")
    skipped_count: int


class ImportEvent(SQLModel):
    """How far an import is, in bytes of one file; at last what came of it, or why nothing did."""

    done: int | None = None
    total: int | None = None
    result: Imported | None = None
    error: StreamError | None = None


class Health(SQLModel):
    status: Literal["ok"]
    version: str
    providers: dict[str, bool] = Field(description="Whether the service has a key for each.")
