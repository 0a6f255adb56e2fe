"""Key pairs and certificates in files, as `ods init` and the start of a node make them."""

import datetime
from pathlib import Path

from appliance.peering.identity import Identity
from appliance.peering.tls import new_certificate, write_certificate


def identity_at(path: Path) -> Identity:
    """The identity of a file; a new one if there is none."""
    found = Identity.load(path)
    if found is None:
        found = Identity.generate()
        found.save(path)
    return found


def make_certificate(certificate: Path, key: Path, host: str, *, now: datetime.datetime) -> None:
    """Write a self-signed certificate and its key."""
    write_certificate(certificate, key, new_certificate(host, now=now))
