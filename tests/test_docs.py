"""What the documentation says, held against the code."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from main import VERSION, create_app
from settings import Settings
from tests.conftest import make_settings
from tests.process import environment, run

ROOT = Path(__file__).parent.parent
READMES = ["README.md", "README.zh-CN.md"]


def section(readme: str, name: str) -> str:
    """The block or table that follows `<!-- name -->`."""
    text = (ROOT / readme).read_text()
    return text.split(f"<!-- {name} -->\n")[1].split("\n\n", 1)[0] + "\n"


def code(readme: str, name: str) -> str:
    text = (ROOT / readme).read_text().split(f"<!-- {name} -->\n")[1]
    return text.removeprefix("```bash\n").split("```")[0]


def rows(table: str) -> list[list[str]]:
    lines = table.strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("readme", READMES)
def test_every_setting_is_listed_with_its_default(readme: str) -> None:
    listed = {
        cells[0].strip("`"): cells[1].strip("`") for cells in rows(section(readme, "settings"))
    }
    real = {}
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        real[name.upper()] = "" if default in (None, []) else str(default)
    assert listed == real


@pytest.mark.parametrize("readme", READMES)
def test_every_endpoint_is_listed_and_every_listed_one_exists(readme: str, tmp_path: Path) -> None:
    schema = create_app(make_settings(tmp_path)).openapi()
    real = {
        (method.upper(), path) for path, methods in schema["paths"].items() for method in methods
    }
    listed = set()
    for cells in rows(section(readme, "api")):
        *methods, path = re.findall(r"[^\s`]+", cells[0])
        listed |= {(method, path) for method in methods}
    assert listed == real


@pytest.mark.parametrize("readme", READMES)
@pytest.mark.parametrize("name", ["run", "test", "chat", "keep", "supply"])
def test_both_languages_give_the_same_commands(readme: str, name: str) -> None:
    assert code(readme, name) == code("README.md", name)


@pytest.mark.parametrize("readme", READMES)
def test_files_that_are_linked_exist(readme: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / readme).read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_first_chat_works_as_it_is_written(tmp_path: Path) -> None:
    with run(environment(tmp_path)) as service:
        commands = code("README.md", "chat").replace(
            "http://127.0.0.1:8000", str(service.client.base_url).rstrip("/")
        )
        done = subprocess.run(["bash", "-ec", commands], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert 'data: {"content": "Hello,"}' in done.stdout
    assert "data: [DONE]" in done.stdout
    assert done.stdout.count("Hello, 你好!") == 2


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == VERSION  # type: ignore[index]


def test_the_lock_holds_what_is_required_and_every_package_of_it_by_its_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    packages = re.split(r"^(?=[\w-]+==)", lock, flags=re.M)[1:]
    locked = {package.split()[0] for package in packages}
    required = (ROOT / "requirements.txt").read_text().splitlines()
    assert {re.sub(r"\[.*\]|;.*", "", line) for line in required} <= locked
    assert all("--hash=sha256:" in package and "# via" in package for package in packages)
    assert "://" not in lock
    for readme in READMES:
        assert lock.split("\n")[1].removeprefix("#    ") in (ROOT / readme).read_text()


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_dependencies_are_exactly_pinned(file: str) -> None:
    for line in (ROOT / file).read_text().splitlines():
        pinned = r"-r requirements\.txt|[\w\[\]-]+==[\w.]+(; sys_platform != \"win32\")?"
        assert re.fullmatch(pinned, line), line
