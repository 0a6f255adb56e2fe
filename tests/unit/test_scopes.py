"""Scopes of API tokens: what a token is good for."""

import pytest

from appliance.api.operations import OPERATIONS
from appliance.domain.errors import InvalidInput, PermissionDenied
from appliance.service.scopes import SCOPES, check_scope, checked_scopes

OPEN = {"/about", "/openapi.json", "/docs"}


def allowed(scopes: tuple[str, ...], path: str, *, reading: bool) -> bool:
    try:
        check_scope(scopes, path, reading=reading)
    except PermissionDenied:
        return False
    return True


def test_every_call_belongs_to_one_area() -> None:
    for operation in OPERATIONS:
        path, reading = f"/api/v1{operation.path}", operation.method in {"get", "head", "options"}
        fitting = [scope for scope in SCOPES if allowed((scope,), path, reading=reading)]
        areas = {scope.partition(":")[0] for scope in fitting}
        if operation.path in OPEN:
            assert len(fitting) == len(SCOPES)
            continue
        assert len(areas) == 1, f"{operation.method} {operation.path} is in {areas or 'no area'}"
        assert len(fitting) == (2 if reading else 1), "to write includes to read"
        assert allowed((), path, reading=reading), "no scopes: all"


@pytest.mark.parametrize("path", ["/ui/", "/ui/tokens", "/api/v2/packages", "/api/v1/", "/Packages/x", "/"])
def test_nothing_else_is_open_to_a_token_with_scopes(path: str) -> None:
    assert not allowed(SCOPES, path, reading=True)


def test_metrics_belong_to_the_system() -> None:
    assert allowed(("system:read",), "/metrics", reading=True)
    assert not allowed(("packages:write",), "/metrics", reading=True)


def test_a_token_gives_no_more_than_it_has() -> None:
    within = ("packages:write", "audit:read")
    assert checked_scopes([], within) == list(within), "none: its own"
    assert checked_scopes(["packages:read", "packages:read"], within) == ["packages:read"]
    assert checked_scopes([], ()) == []
    for scope in ("audit:write", "accounts:read"):
        with pytest.raises(PermissionDenied):
            checked_scopes([scope], within)
    with pytest.raises(InvalidInput):
        checked_scopes(["packages:delete"], ())
