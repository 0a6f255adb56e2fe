"""The description of the API is valid, and is that of the routes."""

import re

import pytest
from openapi_spec_validator import validate

from appliance.api.base import BaseHandler
from appliance.api.errors import status_of
from appliance.api.openapi import document
from appliance.api.operations import OPERATIONS, Operation
from appliance.api.routes import _PACKAGE, API
from appliance.api.uploads import PackagePutHandler
from appliance.service.accounts import Role

METHODS = ("get", "head", "post", "put", "patch", "delete", "options")


def test_the_description_is_valid() -> None:
    validate(document())


def served() -> set[tuple[str, str]]:
    """Method and path pattern of everything that a handler of the API implements itself."""
    found = {("put", _PACKAGE)} if "put" in PackagePutHandler.__dict__ else set()
    for pattern, handler in API:
        for method in METHODS:
            own = [
                cls.__dict__
                for cls in handler.__mro__
                if method in cls.__dict__ and cls.__module__.startswith("appliance")
            ]
            # HEAD that is GET without the body needs no description of its own.
            if own and not (method == "head" and own[0]["head"] is own[0].get("get")):
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


def handler_of(operation: Operation) -> type[BaseHandler]:
    """Who answers it: the first route that fits, as in the application."""
    if operation.method == "put":
        return PackagePutHandler
    path = example("/api/v1" + operation.path)
    found = next(handler for pattern, handler in API if re.fullmatch(pattern, path))
    assert issubclass(found, BaseHandler)
    return found


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
def test_the_described_role_is_the_one_that_is_demanded(operation: Operation) -> None:
    reading = operation.method in {"get", "head", "options"}
    usual = Role.VIEWER if reading else Role.OPERATOR
    demanded = handler_of(operation).roles.get(operation.method.upper(), usual)
    assert demanded.word == operation.role
    assert not handler_of(operation).open


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
def test_the_ways_to_fail_are_described_by_status_with_their_codes(operation: Operation) -> None:
    responses = document()["paths"]["/api/v1" + operation.path][operation.method]["responses"]
    assert {"401", "429", "503", "default"} <= set(responses)
    for cls in operation.failures():
        assert f"`{cls.code}`" in responses[str(status_of(cls()))]["description"]
    assert ("403" in responses) == (operation.role != "viewer" or operation.method not in {"get", "options"})


#: `options` of one upload is that of all uploads.
ALIKE = {("options", r"/api/v1/uploads/([0-9a-f]{32})")}
EXAMPLES = {
    "upload": "0" * 32,
    "invite": "0" * 16,
    "transfer": "a" * 32 + "-" + "0" * 16,
    "job": "0" * 24,
    "token": "abcdefgh",
    "session": "0" * 64,
    "action": "retry",
}


def example(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: EXAMPLES.get(match[1], "Some.pkg"), path)


def exact(pattern: str, path: str) -> bool:
    """`/peers/invites` fits the pattern of one peer, too: a path without a parameter has a pattern without a group."""
    return ("{" in path) == ("(" in pattern)
