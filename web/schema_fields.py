"""Fields of a form, made from the JSON Schema of a configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_WORDS = {"url": "URL", "urls": "URLs", "id": "ID", "ca": "CA"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FormField:
    """One field."""

    name: str  #: "section.field"
    label: str
    hint: str
    kind: str  #: "text", "long", "secret", "number", "flag", "choice", "list" or "map"
    value: Any
    choices: tuple[str, ...] = ()
    required: bool = False
    least: float | None = None
    most: float | None = None


def form_fields(schema: Mapping[str, Any], section: str, values: Mapping[str, Any]) -> list[FormField]:
    """The fields of an object's schema.

    Args:
        schema: Of the object.
        section: What stands before their names.
        values: What is set; what is not has the schema's default.
    """
    required = schema.get("required", ())
    return [
        FormField(
            name=f"{section}.{name}",
            label=label_of(name),
            hint=about.get("description", ""),
            kind=_kind(about),
            value=values.get(name, about.get("default", _EMPTY.get(_kind(about), ""))),
            choices=tuple(about.get("enum", ())),
            required=name in required,
            least=about.get("minimum"),
            most=about.get("maximum"),
        )
        for name, about in schema["properties"].items()
    ]


_EMPTY: Mapping[str, Any] = {"list": (), "map": {}}


def _kind(about: Mapping[str, Any]) -> str:
    if about.get("secret"):
        return "secret"
    if "enum" in about:
        return "choice"
    if about.get("maxLength", 0) > 1000:
        return "long"
    return {"boolean": "flag", "integer": "number", "number": "number", "array": "list", "object": "map"}.get(
        about.get("type", ""), "text"
    )


def label_of(name: str) -> str:
    """What people read: "poll_s" is "Poll (seconds)"."""
    words = name.split("_")
    seconds = words[-1] == "s" and len(words) > 1
    text = " ".join(_WORDS.get(word, word) for word in (words[:-1] if seconds else words))
    return text[0].upper() + text[1:] + (" (seconds)" if seconds else "")
