"""The Classic API's XML: written with everything escaped, read without document types and entities."""

from collections.abc import Mapping
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape

from .errors import JamfSurprise

_MAX_DEPTH = 64


def to_xml(root: str, fields: Mapping[str, Any]) -> bytes:
    """A document of elements with texts; a mapping becomes elements below, None is left out.

    Args:
        root: The name of the outer element.
        fields: Element names to values.
    """
    return f'<?xml version="1.0" encoding="UTF-8"?>{_element(root, fields)}'.encode()


def _element(name: str, value: Any) -> str:
    if not name.isascii() or not name.replace("_", "").isalnum():
        raise ValueError(f"{name!r} is no element of the Classic API")
    if isinstance(value, Mapping):
        return f"<{name}>{''.join(_element(k, v) for k, v in value.items() if v is not None)}</{name}>"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"<{name}>{escape(_printable(text))}</{name}>"


def _printable(text: str) -> str:
    """XML 1.0 cannot hold control characters at all."""
    return "".join(
        char for char in text if char in "\t\n\r" or (char >= " " and not "\ud800" <= char <= "\udfff")
    )


def id_of(body: bytes) -> str:
    """The id that a created record was given: the text of the first element `id`, whatever the root is called.

    Raises:
        JamfSurprise: There is none.
    """
    found: list[str] = []
    path: list[str] = []

    def start(name: str, _attributes: dict[str, str]) -> None:
        path.append(name)
        if len(path) > _MAX_DEPTH:
            raise JamfSurprise("The answer's XML has too many levels.")

    def end(_name: str) -> None:
        path.pop()

    def text(data: str) -> None:
        if path[-1:] == ["id"]:
            found.append(data)

    def refuse(*_: Any) -> None:
        raise JamfSurprise("The answer's XML has a document type.")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, refuse
    try:
        parser.Parse(body, True)
    except expat.ExpatError as exc:
        raise JamfSurprise("The answer is not well-formed XML.") from exc
    id = "".join(found).strip()
    if not id.isascii() or not id.lstrip("-").isdigit():
        raise JamfSurprise("The answer names no id.")
    return id
