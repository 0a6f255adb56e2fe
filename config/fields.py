"""The kinds of values that settings have, and what all sections share."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")


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


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(allow_inf_nan=False)]


class Section(BaseModel):
    """What all sections share: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
