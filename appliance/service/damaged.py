"""Which packages are damaged here and cannot be fetched from another node: what a person has to do, in words.

Only words: that a file is damaged is a row of the collection `damaged`, from when it is found until it is whole again.
`Holdings.lost_blob` and fsck write it (`verified_blobs.damage`), `Holdings.is_damaged` asks for it, and
`Verifying.notice_repairs` closes it. What it means for a package is decided in `domain.holding`: only what no node can
give now has the presence *damaged*.
"""

from appliance.domain.package import Presence

from .catalogue import Catalogue

_SHOWN = 3


def damaged_words(catalogue: Catalogue, *, named: bool = True) -> str:
    """Sentences about packages that only an upload can repair; "" if there is none.

    Args:
        catalogue: The packages of this node.
        named: Whether to name them: not to everybody, as in the answer of `/health/ready`.
    """
    found = (package for package in catalogue.all() if package.presence is Presence.DAMAGED)
    names = sorted(package.body.filename for package in found)
    if not names:
        return ""
    if not named:
        are = "1 package is" if len(names) == 1 else f"{len(names)} packages are"
        return (
            f"{are} damaged here, and no node can give the file: see `ods package list --presence damaged`."
        )
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    if len(names) == 1:
        return f"{shown} is damaged here, and no node can give it. Upload the same file again."
    return f"{len(names)} packages are damaged here, and no node can give them: {shown}. Upload the same files again."
