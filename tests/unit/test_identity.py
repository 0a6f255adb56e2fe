"""The node's key pair."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from appliance.domain.errors import InvalidSettings
from appliance.domain.names import node_id
from appliance.peering.identity import Identity, signature_holds
from tests.keys import identity_at


def test_it_is_made_once_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "node.pem"
    first, second = identity_at(path), identity_at(path)
    assert first.node_id == second.node_id == node_id(first.public_key)
    assert signature_holds(first.public_key, second.sign(b"x"), b"x")
    assert [entry.name for entry in path.parent.iterdir()] == ["node.pem"]


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "node.pem"
    script = (
        "import os, pathlib, sys\nos.umask(0)\nfrom appliance.peering.identity import Identity\n"
        "Identity.generate().save(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes = b"") -> bytes:
    how = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        pem(Ed25519PrivateKey.generate())[:60],
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(Ed25519PrivateKey.generate(), b"password"),
    ],
    ids=["empty", "nonsense", "cut off", "another kind", "encrypted"],
)
def test_a_file_that_holds_no_key_is_told_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "node.pem"
    path.write_bytes(content)
    with pytest.raises(InvalidSettings, match=r"node\.pem"):
        Identity.load(path)
    assert path.read_bytes() == content, "an identity is never replaced silently"


def test_identities_differ_and_ids_are_words_for_urls() -> None:
    ids = {Identity.generate().node_id for _ in range(5)}
    assert len(ids) == 5
    assert all(len(id) == 52 and set(id) <= set("abcdefghijklmnopqrstuvwxyz234567") for id in ids)


def test_signatures() -> None:
    alice, mallory = Identity.generate(), Identity.generate()
    signature = alice.sign(b"data")
    assert signature_holds(alice.public_key, signature, b"data")
    assert not signature_holds(alice.public_key, signature, b"dat")
    assert not signature_holds(mallory.public_key, signature, b"data")
    assert not signature_holds(alice.public_key, signature[:-1], b"data")
    assert not signature_holds(alice.public_key[:-1], signature, b"data")
    assert not signature_holds(b"", b"", b"")


def test_the_key_does_not_show_itself() -> None:
    identity = Identity.generate()
    secret = identity.private_key.private_bytes_raw()
    assert secret.hex() not in repr(identity) + repr(vars(identity))
