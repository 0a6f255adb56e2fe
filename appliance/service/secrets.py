"""Secrets at rest: encrypted with a key that is a file of its own, so that a copy of the database shows none."""

import hashlib
import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from appliance.domain.errors import InvalidSettings


class SecretBox:
    """Encrypts and decrypts what must be kept and not shown."""

    def __init__(self, path: Path) -> None:
        """Read the key file, or make it (mode 0600).

        Raises:
            InvalidSettings: The file holds no key.
        """
        self._path = path
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            key = Fernet.generate_key()
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                try:
                    file.write(key)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:  # what the disk did not keep must not be found at the next start
                    path.unlink(missing_ok=True)
                    raise
        try:
            self._fernet = Fernet(key.strip())
        except ValueError as exc:
            raise InvalidSettings(
                f"{path} holds no key. Restore it from a backup. If it is lost for good, `ods init --new-secrets-key` "
                "makes a new one, and passwords of MDM servers and destinations have to be entered again."
            ) from exc
        self.fingerprint = hashlib.sha256(b"ods secrets key " + key.strip()).hexdigest()  #: tells keys apart

    def seal(self, secret: bytes) -> str:
        """Encrypt a secret."""
        return self._fernet.encrypt(secret).decode("ascii")

    def open(self, sealed: str) -> bytes:
        """Decrypt a secret.

        Raises:
            InvalidSettings: It was sealed with another key.
        """
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken as exc:
            raise InvalidSettings(
                f"A stored secret was encrypted with another key than {self._path} holds."
            ) from exc
