"""What callers state beside a body: query parameters, and conditions in headers. What may be a slip is an error."""

import difflib
import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from appliance.domain.errors import InvalidInput
from appliance.domain.precondition import ANY, Precondition

CONDITIONS = ("If-Match", "If-None-Match", "If-Unmodified-Since")
_TAGS = re.compile(r'[ \t]*(?:((?:W/)?)"([\x21\x23-\x7e\x80-\xff]*)")?[ \t]*(?:,|$)')


def flag(name: str, text: str) -> bool:
    """A yes or no; every other word is an error, the empty one too.

    Raises:
        InvalidInput: It is neither true nor false.
    """
    try:
        return _flag(text)
    except ValueError as exc:
        raise InvalidInput(f"{name}: {exc}.", fields={name: str(exc)}) from exc


def _flag(text: object) -> bool:
    found = {"true": True, "false": False}.get(text.lower()) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f'it has to be true or false, not "{text}"')
    return found


Flag = Annotated[bool, BeforeValidator(_flag)]  #: a yes or no in a query


class Choice:
    """Beside the type of a filter: which values it takes; empty, it filters nothing."""

    def __init__(self, values: Iterable[str]) -> None:
        self._values = list(map(str, values))

    def _check(self, value: str) -> str:
        if value and value not in self._values:
            raise ValueError(f'there is no "{value}"; there are: {", ".join(self._values)}')
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check the value after its type."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Name the values in the description of the API."""
        return {**handler(schema), "enum": ["", *self._values]}


def check_names(given: Mapping[str, list[Any]], known: Iterable[str]) -> None:
    """Let a query be used.

    Args:
        given: Its parameters with all their values.
        known: What there is.

    Raises:
        InvalidInput: A parameter is unknown or given twice.
    """
    allowed = sorted(known)
    for name, values in given.items():
        if name not in allowed:
            there = f"There are: {', '.join(allowed)}." if allowed else "There are none."
            raise InvalidInput(
                f'There is no parameter "{name}" here{did_you_mean(name, allowed) or "."} {there}',
                fields={name: "There is no such parameter."},
            )
        if len(values) > 1:
            raise InvalidInput(
                f'The parameter "{name}" is given {len(values)} times; give it once.',
                fields={name: "It is given more than once."},
            )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: which one was meant, or ""."""
    near = difflib.get_close_matches(name.lower(), list(known), 1, 0.8)
    return f'; do you mean "{near[0]}"?' if near else ""


def read_precondition(headers: Mapping[str, str]) -> Precondition | None:
    """What a request insists on, or None (RFC 9110, 13.1). If-Match compares strongly: a weak tag never fits.

    Raises:
        InvalidInput: A header is not written so.
    """
    found = Precondition(
        match=_tags("If-Match", headers.get("If-Match"), weak=False),
        none_match=_tags("If-None-Match", headers.get("If-None-Match"), weak=True),
        unmodified_since=_seconds(headers.get("If-Unmodified-Since")),
    )
    return None if found == Precondition() else found


def _tags(name: str, header: str | None, *, weak: bool) -> tuple[str, ...] | None:
    """The entity tags of a header without their quotes, weak ones among them only if they count."""
    if header is None:
        return None
    if header.strip() == "*":
        return ANY
    found: list[re.Match[str]] = []
    at = 0
    while at < len(header):
        part = _TAGS.match(header, at)
        if part is None:
            found = []
            break
        if part[2] is not None:
            found.append(part)
        at = part.end()
    if not found:
        raise InvalidInput(
            f'{name} is * or entity tags in double quotes, such as "7-abcdefghijkl"; it is: {header}'
        )
    return tuple(part[2] for part in found if weak or not part[1])


def _seconds(header: str | None) -> int | None:
    """A date of HTTP in UTC seconds; what is none is ignored, as RFC 9110 demands."""
    try:
        return int(parsedate_to_datetime(header).timestamp()) if header else None
    except (TypeError, ValueError, OverflowError):
        return None
