"""What is wrong with the input of a call, in plain sentences."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from config.plain import plain

from .parameters import did_you_mean


def faults_of(error: ValidationError, known: Iterable[str]) -> dict[str, str]:
    """What is wrong, by field, each in words without a stop.

    Args:
        error: What the library found.
        known: The fields that there are.
    """
    names = list(known)
    return {".".join(map(str, item["loc"])) or "body": _words(item, names) for item in error.errors()}


def sentence(faults: Mapping[str, str]) -> str:
    """All that is wrong, for a person."""
    return "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in faults.items()) + "."


def _words(item: Any, known: list[str]) -> str:
    if item["type"] == "extra_forbidden":
        if len(item["loc"]) != 1:
            return "there is no such field"
        meant = did_you_mean(str(item["loc"][0]), known)
        there = f"here are: {', '.join(known)}" if known else "here are none"
        return f"there is no such field{f'{meant} T' if meant else '; t'}{there}"
    return plain(item)
