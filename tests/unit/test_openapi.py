"""The description of the API is valid, and is that of the routes."""

import re

from openapi_spec_validator import validate

from appliance.api.openapi import document
from appliance.api.routes import _PACKAGE, API
from appliance.api.uploads import PackagePutHandler

METHODS = ("get", "head", "post", "put", "patch", "delete", "options")


def test_the_description_is_valid() -> None:
    validate(document())


def served() -> set[tuple[str, str]]:
    """Method and path pattern of everything that a handler of the API implements itself."""
    found = {("put", _PACKAGE)} if "put" in PackagePutHandler.__dict__ else set()
    for pattern, handler in API:
        for method in METHODS:
            if any(
                method in cls.__dict__ for cls in handler.__mro__ if cls.__module__.startswith("appliance")
            ):
                found.add((method, pattern))
    return found


def test_every_call_is_described_and_every_description_is_served() -> None:
    described = {(method, path) for path, calls in document()["paths"].items() for method in calls}
    matched: set[tuple[str, str]] = set()
    for method, pattern in served():
        fits = {
            (m, path)
            for m, path in described
            if m == method and re.fullmatch(pattern, example(path)) and exact(pattern, path)
        }
        assert fits or (method, pattern) in ALIKE, f"{method} {pattern} is not described"
        matched |= fits
    assert described == matched


#: `options` of one upload is that of all uploads.
ALIKE = {("options", r"/api/v1/uploads/([0-9a-f]{32})")}
EXAMPLES = {
    "upload": "0" * 32,
    "invite": "0" * 16,
    "transfer": "a" * 32 + "-" + "0" * 16,
    "job": "0" * 24,
    "token": "abcdefgh",
    "action": "retry",
}


def example(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: EXAMPLES.get(match[1], "Some.pkg"), path)


def exact(pattern: str, path: str) -> bool:
    """`/peers/invites` fits the pattern of one peer, too: a path without a parameter has a pattern without a group."""
    return ("{" in path) == ("(" in pattern)
