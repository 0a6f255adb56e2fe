"""Plain words for what the library that checks inputs says to programmers: of settings, and of calls of the API."""

from collections.abc import Mapping
from typing import Any

#: by the library's kind of fault, with what it says of it
_WORDS = {
    "missing": "it is missing",
    "int_type": "it has to be a whole number",
    "int_parsing": "it has to be a whole number",
    "int_parsing_size": "the number is too large",
    "int_from_float": "it has to be a whole number",
    "float_type": "it has to be a number",
    "float_parsing": "it has to be a number",
    "finite_number": "it has to be a number",
    "bool_type": "it has to be true or false",
    "bool_parsing": "it has to be true or false",
    "string_type": "it has to be a text",
    "string_unicode": "it has to be text in UTF-8",
    "list_type": "it has to be a list",
    "tuple_type": "it has to be a list",
    "dict_type": "it has to be an object",
    "model_type": "it has to be an object",
    "model_attributes_type": "it has to be an object",
    "none_required": "it has to be null",
    "greater_than_equal": "it has to be at least {ge}",
    "greater_than": "it has to be more than {gt}",
    "less_than_equal": "it has to be at most {le}",
    "less_than": "it has to be less than {lt}",
    "string_too_short": "it is too short; it has at least {min_length} characters",
    "string_too_long": "it is too long; it has at most {max_length} characters",
    "too_short": "it has too few entries; there are at least {min_length}",
    "too_long": "it has too many entries; there are at most {max_length}",
    "literal_error": "it has to be one of {expected}",
    "enum": "it has to be one of {expected}",
}


def plain(fault: Mapping[str, Any]) -> str:
    """What is wrong, without a stop; `fault` is one of the errors that the library lists."""
    if fault["type"] in {"value_error", "assertion_error"}:  # a rule of ours
        return str(fault["ctx"]["error"])
    pattern = _WORDS.get(fault["type"])
    context = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in fault.get("ctx", {}).items()
    }
    return pattern.format(**context) if pattern else "its value cannot be used"
