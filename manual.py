"""The OpenAPI document as a page to read: plain HTML, which loads nothing and runs nothing."""

import json
import re
from collections.abc import Iterator
from html import escape
from typing import Any

Schema = dict[str, Any]

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
code, pre {{ font: 0.875em/1.4 ui-monospace, monospace }}
pre {{ white-space: pre-wrap; padding: 0.5em; border: 1px solid #8886 }}
summary {{ cursor: pointer; padding: 0.2em 0 }}
details > :not(summary) {{ margin-left: 1.5em }}
td, th {{ text-align: left; vertical-align: top; padding: 0.1em 1em 0.1em 0 }}
</style>
<h1>{title} <small>{version}</small></h1>
{body}
</html>
"""


def page(document: Schema) -> str:
    """The whole page."""
    parts = [_text(document["info"]["description"])]
    parts.append('<p>For programs: <a href="/openapi.json">openapi.json</a></p>')
    parts.append("<h2>any call may answer</h2>")
    refusals = document["components"]["responses"]
    parts.append(_table([_answer(*told) for told in refusals.items() if told[0].isdecimal()]))
    for tag, operations in _by_tag(document).items():
        parts.append(f"<h2>{escape(tag)}</h2>")
        parts += [_operation(document, *operation) for operation in operations]
    parts.append("<h2>shapes</h2>")
    parts += [_shape(name, s) for name, s in document["components"]["schemas"].items()]
    info = document["info"]
    return PAGE.format(
        title=escape(info["title"]), version=escape(info["version"]), body="\n".join(parts)
    )


def _by_tag(document: Schema) -> dict[str, list[tuple[str, str, Schema]]]:
    found: dict[str, list[tuple[str, str, Schema]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found.setdefault(operation["tags"][0], []).append((method, path, operation))
    return found


def _operation(document: Schema, method: str, path: str, operation: Schema) -> str:
    parts = [_text(operation.get("description", ""))]
    if parameters := operation.get("parameters"):
        parts.append(_table([_parameter(parameter) for parameter in parameters]))
    if body := operation.get("requestBody"):
        for kind, content in body["content"].items():
            parts.append(f"<p>Body, {escape(kind)}: {_kind(content['schema'])}</p>")
            parts += _examples(document, content)
    own = {status: told for status, told in operation["responses"].items() if "$ref" not in told}
    parts.append(_table([_answer(*answer) for answer in sorted(own.items())]))
    line = f"<b>{method.upper()}</b> {escape(path)}"
    return f"<details><summary><code>{line}</code></summary>{''.join(parts)}</details>"


def _parameter(parameter: Schema) -> list[str]:
    told = parameter.get("description", "")
    need = "required" if parameter["required"] else ""
    where = f"{parameter['in']} {need}".strip()
    return [_code(parameter["name"]), where, _kind(parameter["schema"]), _inline(told)]


def _examples(document: Schema, content: Schema) -> Iterator[str]:
    examples = [content["example"]] if "example" in content else []
    for kind in content["schema"].get("anyOf", [content["schema"]]):
        name = kind.get("$ref", "").rpartition("/")[2]
        examples += document["components"]["schemas"].get(name, {}).get("examples", [])
    for example in examples:
        yield f"<pre>{escape(json.dumps(example, ensure_ascii=False, indent=2))}</pre>"


def _answer(status: str, answer: Schema) -> list[str]:
    kinds = [
        f"{escape(kind)}: {_kind(content.get('schema', {}))}"
        + (f"<pre>{escape(content['example'])}</pre>" if "example" in content else "")
        for kind, content in answer.get("content", {}).items()
    ]
    return [_code(status), _inline(answer["description"]), "<br>".join(kinds)]


def _shape(name: str, schema: Schema) -> str:
    required = schema.get("required", [])
    rows = [
        [
            _code(field),
            "required" if field in required else "",
            _kind(kind),
            _inline(kind.get("description", "")),
        ]
        for field, kind in schema.get("properties", {}).items()
    ]
    told = _text(schema.get("description", ""))
    return f'<h3 id="{escape(name)}">{escape(name)}</h3>{told}{_table(rows)}'


def _kind(schema: Schema) -> str:
    """A schema in a few words, with links to the shapes it names."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return " or ".join(_kind(part) for part in schema[word])
    if "contentSchema" in schema:
        return f"events, each {_kind(schema['contentSchema'])}"
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return " or ".join(_code(json.dumps(value, ensure_ascii=False)) for value in values)
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    kind = schema.get("type", "anything")
    return escape(" or ".join(kind) if isinstance(kind, list) else kind)


def _table(rows: list[list[str]]) -> str:
    lines = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _text(markdown: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in markdown.strip().split("\n\n") if part)


def _inline(markdown: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(markdown))


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"
