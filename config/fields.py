"""The kinds of values that settings have, and what all sections share."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MAX_WORD = 64  #: characters of a stage or tag
MAX_WORDS = 500  #: of a list: no more fit into the record that tells other nodes of them

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)", re.ASCII)
_MAX_SIZE = 2**62  #: bytes; every database keeps such a number
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*([a-z]+)", re.ASCII)


def parse_size(value: Any) -> Any:
    """A size in bytes, from a number or a text such as "5 GiB"."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError('a size is a number of bytes, or a text such as "5 GiB"')
    return int(float(match[1]) * _UNITS[match[2].upper()])


def parse_seconds(value: Any) -> Any:
    """A duration in seconds, from a number or a text such as "90 s", "5m", "24h" or "7d"."""
    match = _DURATION.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if match is None:
        return value
    if match[2] not in _SECONDS:
        raise ValueError('a duration is a number of seconds, or a text such as "90s", "5m", "24h" or "7d"')
    return float(match[1]) * _SECONDS[match[2]]


def check_words(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return words that can be stages or tags: as `domain.package.check_tags` wants them."""
    if len(words) > MAX_WORDS:
        raise ValueError(f"there are {len(words)} words; at most {MAX_WORDS} are allowed")
    for word in words:
        if not 0 < len(word) <= MAX_WORD or word != word.strip() or "," in word or not word.isprintable():
            raise ValueError(
                f"{word!r} is not 1 to {MAX_WORD} printable characters without commas or surrounding spaces"
            )
    return words


def check_path(path: str) -> str:
    """Return a path that a system can take."""
    if "\0" in path:
        raise ValueError("a path has no NUL character")
    return path


def check_host(host: str) -> str:
    """Return a host name or an address that can be looked up: of a name, each part has 1 to 63 characters."""
    try:
        host.encode("idna")
    except UnicodeError as exc:
        raise ValueError("it is not an address or a host name") from exc
    return host


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0, le=_MAX_SIZE)]
Words = Annotated[tuple[str, ...], AfterValidator(check_words)]
FilePath = Annotated[str, AfterValidator(check_path)]
HostName = Annotated[str, AfterValidator(check_host)]
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(allow_inf_nan=False)]


class Section(BaseModel):
    """What all sections share: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def check_pair(self, first: str, second: str) -> None:
        """Refuse one of two settings that make sense only together.

        Raises:
            ValueError: One is set; the message begins with its name.
        """
        if bool(getattr(self, first)) != bool(getattr(self, second)):
            given, missing = (first, second) if getattr(self, first) else (second, first)
            raise ValueError(f"{given}: it and {missing} belong together: set both or none")
