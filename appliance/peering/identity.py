"""Who this node is: an Ed25519 key pair whose public half, hashed, is the node's id."""

import base64
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from appliance.domain.errors import InvalidSettings
from appliance.domain.names import node_id

KEY_BYTES = 32
_RESTORE = (
    "Restore the directory identity from a backup. If the key is lost for good, `ods init --new-identity` makes this "
    "a new node that keeps its packages."
)


class Identity:
    """The key pair of this node."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public_key_b64 = base64.b64encode(self.public_key).decode("ascii")
        self.node_id = node_id(self.public_key)

    @classmethod
    def generate(cls) -> "Identity":
        """Make a new identity that is kept nowhere."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> "Identity | None":
        """Read the key pair from a PEM file; None if it is missing.

        Raises:
            InvalidSettings: The file holds no usable key.
        """
        try:
            pem = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise InvalidSettings(f"{path} cannot be read: {exc.strerror}. {_RESTORE}") from exc
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise InvalidSettings(f"{path} holds no private key. {_RESTORE}") from exc
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidSettings(f"{path} holds no Ed25519 key. {_RESTORE}")
        return cls(key)

    def save(self, path: Path) -> None:
        """Write the key pair to a PEM file (mode 0600), in one step and durably."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_name(path.name + ".part")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    @property
    def private_key(self) -> Ed25519PrivateKey:
        """The private key, for the signature library."""
        return self._key

    def sign(self, data: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `data`."""
        return self._key.sign(data)


def signature_holds(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """Whether `signature` over `data` was made with this key."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True
