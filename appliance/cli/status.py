"""Placeholder."""
from typing import Any


def add_to(group: Any) -> None:
    """Add."""
