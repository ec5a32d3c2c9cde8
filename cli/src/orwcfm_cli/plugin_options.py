"""A component's options in plain words, from its pydantic model. No torch in here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orwcfm_core.plugin import ComponentConfig
from pydantic_core import to_jsonable_python

__all__ = ["Option", "options_of", "shown"]

_TYPES = {
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "object": "table",
    "null": "unset",
}
_BOUNDS = (
    ("minimum", "at least {}"),
    ("exclusiveMinimum", "more than {}"),
    ("maximum", "at most {}"),
    ("exclusiveMaximum", "less than {}"),
    ("minItems", "{} or more of them"),
    ("maxItems", "{} of them at most"),
    ("multipleOf", "a multiple of {}"),
)


@dataclass(frozen=True)
class Option:
    """One option.

    Args:
        name: As typed after `--set`, `section.option`.
        type: What it accepts, in words.
        default: Its default as typed, or `required`, or `unset`.
        description: What it does.
    """

    name: str
    type: str
    default: str
    description: str


def options_of(section: str, model: type[ComponentConfig]) -> list[Option]:
    """The options of a component.

    Args:
        section: Section of the configuration that they are in.
        model: The component's config.
    """
    schema = model.model_json_schema()
    known = schema.get("$defs", {})
    return [
        Option(
            name=f"{section}.{name}",
            type=_words(schema["properties"][name], known),
            default="required" if field.is_required() else shown(field.get_default(call_default_factory=True)),
            description=" ".join((field.description or "").split()),
        )
        for name, field in model.model_fields.items()
    ]


def shown(value: Any) -> str:
    """A value as it is typed on the command line."""
    match to_jsonable_python(value, fallback=str):
        case None:
            return "unset"
        case str(text) if text:
            return text
        case other:
            return json.dumps(other, ensure_ascii=False)


def _words(schema: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in schema:
        return _words(known.get(schema["$ref"].rpartition("/")[2], {}), known)
    if "anyOf" in schema:
        return "; or ".join(_words(choice, known) for choice in schema["anyOf"])
    if "const" in schema:
        return shown(schema["const"])
    if "enum" in schema:
        return _or([shown(choice) for choice in schema["enum"]])
    if schema.get("type") == "array":
        parts = [_list(schema, known)]
    else:
        parts = ["path" if schema.get("format") == "path" else _TYPES.get(schema.get("type", ""), "any value")]
    return ", ".join([*parts, *_bounds(schema)])


def _list(schema: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    items = [_words(item, known) for item in schema.get("prefixItems", ())]
    if items:
        return f"list of {len(items)} ({'; '.join(items)})"
    return f"list ({_words(schema['items'], known)})" if schema.get("items") else "list"


def _bounds(schema: Mapping[str, Any]) -> Iterator[str]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        yield f"{_number(low)} to {_number(high)}"
    for key, words in _BOUNDS:
        if key not in schema or (key in ("minimum", "maximum") and None not in (low, high)):
            continue
        if not (key.endswith("Items") and "prefixItems" in schema):
            yield words.format(_number(schema[key]))


def _number(value: Any) -> str:
    """A whole number without its `.0`."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _or(choices: Sequence[str]) -> str:
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last
