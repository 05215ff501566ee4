"""What the config accepts, for editors and for readers.

`python -m noisesteps.schema`, run at the top of a checkout, writes the JSON schema and
the table of keys in config/README.md anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from noisesteps.config import Study
from noisesteps.files import write_text

SCHEMA = Path("workflow/schemas/config.schema.json")
README = Path("config/README.md")
BEGIN = "<!-- keys: written by `make schema` -->"
END = "<!-- end of keys -->"
LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {:,}",
    "exclusiveMaximum": "below {:,}",
    "multipleOf": "a multiple of {}",
    "minItems": "at least {} of them",
    "minLength": "not empty",
    "pattern": "matching `{}`",
}


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a study's YAML file."""
    schema = Study.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def key_table() -> str:
    """Return a Markdown section for every mapping of the YAML file."""
    schema = json_schema()
    sections = {"Study": schema, **schema["$defs"]}
    return "\n".join(
        line for name, part in sections.items() for line in _section(name, part)
    )


def _section(name: str, part: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}\n"
    yield f"{part['description'].splitlines()[0]}\n"
    yield "| key | takes | default | what it is |"
    yield "|---|---|---|---|"
    for key, field in part["properties"].items():
        default = _default(key, field, part)
        unit = f" ({field['unit']})" if "unit" in field else ""
        described = field["description"].replace("|", "\\|")
        yield f"| `{key}` | {_takes(field)} | {default} | {described}{unit} |"
    yield ""


def _default(key: str, field: dict[str, Any], part: dict[str, Any]) -> str:
    if key in part.get("required", []):
        return "required"
    value = field.get("default")
    return "its own defaults" if isinstance(value, dict) else f"`{json.dumps(value)}`"


def _takes(field: dict[str, Any]) -> str:
    """Say in words what a value may be."""
    if "$ref" in field:
        return field["$ref"].rsplit("/", 1)[1]
    if "oneOf" in field:
        return " or ".join(_takes(option) for option in field["oneOf"])
    if "anyOf" in field:
        return " or ".join(_takes(option) for option in field["anyOf"])
    if "enum" in field or "const" in field:
        choices = field.get("enum", [field.get("const")])
        return ", ".join(f"`{choice}`" for choice in choices)
    limits = [text.format(field[key]) for key, text in LIMITS.items() if key in field]
    words = [_kind(field), *limits]
    return ", ".join(words).replace("|", "\\|")


def _kind(field: dict[str, Any]) -> str:
    kind = field.get("type", "value")
    if kind == "array":
        return f"list of ({_takes(field['items'])})"
    if kind == "object":
        inner = field.get("additionalProperties") or next(
            iter(field.get("patternProperties", {}).values()), {}
        )
        return f"mapping of names to ({_takes(inner)})"
    return kind


def readme(text: str) -> str:
    """Return config/README.md's text with its table of keys written anew."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{key_table()}\n{END}{after}"


def schema_text() -> str:
    """Return the text of the JSON schema file."""
    return json.dumps(json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    write_text(SCHEMA, schema_text())
    write_text(README, readme(README.read_text(encoding="utf-8")))
