"""What an API token is for: areas of the admin API, to read or to change. A token without scopes has all.

A scope takes away and never gives: the role still decides. `packages:write` includes `packages:read`. Whoever may
change accounts can make themselves anything: give `accounts:write` to nobody whom you would not give all.
"""

from collections.abc import Mapping, Sequence

from appliance.domain.errors import InvalidInput, PermissionDenied

API = "/api/v1/"
#: the first part of the path behind /api/v1/, by area
AREAS: Mapping[str, tuple[str, ...]] = {
    "packages": ("packages", "uploads"),
    "network": ("nodes", "peers"),
    "work": ("transfers", "jobs"),
    "mdm": ("mdm",),
    "notifications": ("destinations", "deliveries"),
    "accounts": ("users", "tokens", "sessions", "directory"),
    "audit": ("events", "events.csv"),
    "system": ("system", "settings", "scrub"),
}
SCOPES = tuple(f"{area}:{way}" for area in AREAS for way in ("read", "write"))
_ALWAYS = frozenset({"about", "openapi.json", "docs"})  #: who am I, and how does one ask
_BY_PART = {part: area for area, parts in AREAS.items() for part in parts}


def checked_scopes(scopes: Sequence[str], within: Sequence[str]) -> list[str]:
    """Scopes for a new token.

    Args:
        scopes: What it shall have; none: what its maker has.
        within: The scopes of the token that makes it; none: all.

    Raises:
        InvalidInput: There is no such scope.
        PermissionDenied: The maker does not have it.
    """
    for scope in scopes:
        if scope not in SCOPES:
            reason = f'There is no scope "{scope}"; scopes are {", ".join(SCOPES)}.'
            raise InvalidInput(reason, fields={"scopes": reason})
        area, _, way = scope.partition(":")
        if within and not _covers(within, area, reading=way == "read"):
            raise PermissionDenied(f"The token that asks has no scope {scope} itself.")
    return list(dict.fromkeys(scopes or within))


def check_scope(scopes: Sequence[str], path: str, *, reading: bool) -> None:
    """Let a token with these scopes make a call.

    Raises:
        PermissionDenied: The call is beyond them.
    """
    if not scopes:
        return
    part = path.removeprefix(API).partition("/")[0] if path.startswith(API) else ""
    if reading and part in _ALWAYS:
        return
    area = "system" if path == "/metrics" else _BY_PART.get(part, "")
    if not area:
        raise PermissionDenied("A token with scopes is for the admin API only.")
    if not _covers(scopes, area, reading=reading):
        needed = f"{area}:{'read' if reading else 'write'}"
        raise PermissionDenied(f"This needs the scope {needed}; the token has {', '.join(scopes)}.")


def _covers(scopes: Sequence[str], area: str, *, reading: bool) -> bool:
    return f"{area}:write" in scopes or (reading and f"{area}:read" in scopes)
