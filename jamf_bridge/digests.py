"""Digests of a package's bytes, and how they compare with those that an MDM states."""

from collections.abc import Mapping

from appliance.domain.package import Package


def known_hashes(package: Package) -> dict[str, str]:
    """Every digest of a package's bytes that its record states, in hex by kind."""
    body = package.body
    return {**body.hashes, "sha1": body.sha1, "sha256": body.sha256}


def unlike(known: Mapping[str, str], stated: Mapping[str, str]) -> list[str]:
    """The kinds of which both have a digest, and another one."""
    return [kind for kind in _common(known, stated) if known[kind].lower() != stated[kind].lower()]


def agree(known: Mapping[str, str], stated: Mapping[str, str]) -> bool | None:
    """Whether digests are of the same bytes: every kind that both name; None if there is no such kind."""
    return not unlike(known, stated) if _common(known, stated) else None


def _common(known: Mapping[str, str], stated: Mapping[str, str]) -> list[str]:
    return [kind for kind, digest in stated.items() if digest and known.get(kind)]
