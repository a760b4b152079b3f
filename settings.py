"""Every knob of the service, typed, with its default and its help."""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AnyHttpUrl, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _split(value: object) -> object:
    """Read a comma-separated line as a list of its non-blank items."""
    if isinstance(value, str):
        return [item.strip().rstrip("/") for item in value.split(",") if item.strip()]
    return value


def _printable(value: SecretStr) -> SecretStr:
    """A key is sent in a header: only what a header can carry."""
    if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("a key has only printable ASCII characters and no blanks")
    return value


Key = Annotated[SecretStr, AfterValidator(_printable)]
Names = Annotated[list[str], NoDecode, BeforeValidator(_split)]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
]


class Settings(BaseSettings):
    """Read from the environment, else from `.env` beside this file; blank counts as unset."""

    model_config = SettingsConfigDict(
        env_file=Path(__file__).with_name(".env"),
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    database_path: Path = Field(Path("chat.db"), description="The one SQLite file.")
    default_provider: Literal["poe", "openai", "echo"] = Field(
        "poe", description="Where a model without a prefix goes: `poe`, `openai` or `echo`."
    )
    default_model: str | None = Field(
        None, description="The model when neither request, conversation nor project names one."
    )
    poe_api_key: Key | None = Field(None, description="The service's own key for Poe.")
    poe_base_url: AnyHttpUrl = Field(
        AnyHttpUrl("https://api.poe.com/v1"), description="Where Poe's API is."
    )
    openai_api_key: Key | None = Field(None, description="The service's own key for OpenAI.")
    openai_base_url: AnyHttpUrl = Field(
        AnyHttpUrl("https://api.openai.com/v1"),
        description="OpenAI, or any server that speaks its API (Ollama, LM Studio, llama.cpp).",
    )
    access_token: Key | None = Field(
        None, description="When set, every request but `/health` must bear exactly this token."
    )
    allow_open: bool = Field(
        False, description="Listen beyond this machine without an `ACCESS_TOKEN` all the same."
    )
    allowed_hosts: Names = Field(
        [], description="Names allowed in the Host header besides localhost, comma-separated."
    )
    allowed_origins: Names = Field(
        [], description="Web origins allowed besides localhost's and Tauri's, comma-separated."
    )
    store_completions: bool = Field(
        False, description="Keep every chat completion, as if it were sent with `store`."
    )
    upstream_timeout: float = Field(
        600, gt=0, le=86_400, description="Seconds of silence before a turn fails."
    )
    upstream_proxy: AnyHttpUrl | None = Field(
        None, description="Proxy for calls to the providers; `HTTPS_PROXY` is not read."
    )
    max_body_mb: float = Field(20, gt=0, le=10_000, description="Largest request body, in MB.")
    max_turns: int = Field(
        64, ge=1, le=10_000, description="Most replies that are written at the same time."
    )
    max_followers: int = Field(
        256, ge=1, le=10_000, description="Most requests that wait for a reply or read one."
    )
    client_timeout: float = Field(
        30, gt=0, le=86_400, description="Seconds a client may stall before it is dropped."
    )
    backup_dir: Path | None = Field(
        None, description="When set, a copy of the database is put there once a day."
    )
    backup_keep: int = Field(7, ge=1, le=10_000, description="How many of those copies are kept.")
    log_level: LogLevel = Field("info", description="`debug`, `info`, `warning` or `error`.")

    @property
    def max_body_size(self) -> int:
        """The largest request body in bytes."""
        return int(self.max_body_mb * 1_000_000)

    @property
    def open_to_anyone(self) -> bool:
        """Whether other machines could call the service without a token."""
        return self.access_token is None and not _is_loopback(self.host)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
