"""Filters in RSQL, as Jamf Pro's lists take them: `fileName=="Firefox 134.pkg";id=in=("1","2")`."""

from collections.abc import Iterable, Mapping


def quoted(value: object) -> str:
    """A value as RSQL writes it. A `*` in it would be a wildcard and is escaped."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("*", "\\*")
    return f'"{escaped}"'


class Expression:
    """A condition; `&` and `|` join two."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __and__(self, other: "Expression") -> "Expression":
        return Expression(f"({self.text};{other.text})")

    def __or__(self, other: "Expression") -> "Expression":
        return Expression(f"({self.text},{other.text})")

    def __str__(self) -> str:
        return self.text


class Field:
    """A field of a list, to make conditions of."""

    def __init__(self, name: str) -> None:
        if not name.replace(".", "").replace("_", "").isalnum() or not name.isascii():
            raise ValueError(f"{name!r} is no field name")
        self._name = name

    def eq(self, value: object) -> Expression:
        """Equal."""
        return Expression(f"{self._name}=={quoted(value)}")

    def ne(self, value: object) -> Expression:
        """Not equal."""
        return Expression(f"{self._name}!={quoted(value)}")

    def in_(self, values: Iterable[object]) -> Expression:
        """One of these; there must be one."""
        listed = ",".join(quoted(value) for value in values)
        if not listed:
            raise ValueError(f"{self._name}: name at least one value")
        return Expression(f"{self._name}=in=({listed})")


def matching(fields: Mapping[str, object]) -> Expression:
    """All of these fields have these values; a list means one of them."""
    parts = [
        Field(name).in_(value) if isinstance(value, list | tuple | set | frozenset) else Field(name).eq(value)
        for name, value in fields.items()
    ]
    if not parts:
        raise ValueError("name at least one field")
    found = parts[0]
    for part in parts[1:]:
        found = found & part
    return found
