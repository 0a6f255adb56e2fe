"""Which packages are damaged here and cannot be fetched from another node: what a person has to do, in words."""

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
