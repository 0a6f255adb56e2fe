"""What works at a Jamf Pro server and what does not, line by line, without changing anything there."""

from collections.abc import Awaitable, Callable
from typing import Any

from ..driver import CheckLine
from ..jamf import JamfAuthorizationError, JamfError, JamfNotFound, Server
from .points import PRO_SINCE

FLOOR = (11, 5)  #: `/api/v1/packages` is there from this version on
_NEEDED = (
    ("Package records: read", "Read Packages", "in"),
    ("Package records: create", "Create Packages", "out"),
    ("Package records: change", "Update Packages", "out"),
    ("Package records: delete", "Delete Packages", ""),
    ("Categories: read", "Read Categories", ""),
    ("Distribution points: read", "Read Distribution Points", "points"),
    ("Distribution points: create", "Create Distribution Points", "points"),
    ("Distribution points: change", "Update Distribution Points", "points"),
    ("Distribution points: remove", "Delete Distribution Points", ""),
    ("Cloud distribution point: read", "Read Cloud Distribution Point", "in"),
    ("Webhooks: read", "Read Webhooks", "webhooks"),
    ("Webhooks: create", "Create Webhooks", "webhooks"),
    ("Webhooks: change", "Update Webhooks", "webhooks"),
    ("Webhooks: delete", "Delete Webhooks", ""),
    ("Network segments: read", "Read Network Segments", ""),
)
_CLOUD_NEW = "Read Jamf Cloud Distribution Service Files"  #: from 11.20 on
_CLOUD_OLD = "Read Jamf Content Distribution Server Files"


async def check(server: Server) -> list[CheckLine]:
    """Every line; it ends early where the rest cannot be known."""
    lines: list[CheckLine] = []
    version = await _try(lines, "Jamf Pro answers", server.version, lambda found: f"version {found}")
    if version is None:
        return lines
    if version < FLOOR:
        text = "It is older than 11.5; package records cannot be read. Upgrade Jamf Pro."
        lines.append(CheckLine(what="Version", ok=False, detail=text))
        return lines
    who = await _try(
        lines, "Sign in", server.authorization, lambda found: f"as {found.username} ({found.kind})"
    )
    if who is None:
        return lines
    modern = version >= (11, 20)
    cloud = ("Cloud files: read", _CLOUD_NEW if modern else _CLOUD_OLD, "in")
    for what, privilege, needed_for in (*_NEEDED, cloud):
        ok = privilege in who.privileges
        detail = "" if ok else f'Add the privilege "{privilege}" to the API role.'
        lines.append(
            CheckLine(
                what=what, ok=ok, detail=detail, privilege="" if ok else privilege, needed_for=needed_for
            )
        )
    await _try(
        lines, "Package records can be listed", server.Packages().count, lambda n: f"{n} records", "in"
    )
    point = await _try(
        lines,
        "Cloud distribution point",
        server.cloud_distribution_point,
        lambda found: str(found.get("cdnType")),
        "in",
    )
    if point is not None and point.get("cdnType") == "JAMF_CLOUD":
        await _try(
            lines,
            "Cloud files can be listed",
            server.CloudFiles().refresh,
            lambda files: f"{len(files)} files",
            "in",
        )
    if version >= PRO_SINCE:
        points = server.DistributionPoints()
        await _try(
            lines, "Distribution points can be listed", points.count, lambda n: f"{n} records", "points"
        )
    return lines


async def _try(
    lines: list[CheckLine],
    what: str,
    call: Callable[[], Awaitable[Any]],
    found: Callable[[Any], str],
    needed_for: str = "",
) -> Any:
    """Do one call and write its line; None if it failed."""
    try:
        answer = await call()
    except JamfAuthorizationError as exc:
        lines.append(
            CheckLine(what=what, ok=False, detail=str(exc), privilege=exc.privilege, needed_for=needed_for)
        )
    except JamfNotFound as exc:
        lines.append(
            CheckLine(
                what=what, ok=False, detail=f"This Jamf Pro has no such call: {exc}", needed_for=needed_for
            )
        )
    except JamfError as exc:
        lines.append(CheckLine(what=what, ok=False, detail=str(exc), needed_for=needed_for or "in"))
    else:
        lines.append(CheckLine(what=what, ok=True, detail=found(answer), needed_for=needed_for))
        return answer
    return None
