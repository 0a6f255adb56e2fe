"""Which node a command speaks to, and as whom.

Flags come before the environment, that before the profile that `ods login` wrote, and that before this machine's port
8080. What a profile knows is used for the profile's own URL only, so that a token never goes to another node.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from config.fields import check_host

from .exits import CommandFailed, ExitCode

DEFAULT_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A node, and how to sign in there.

    Raises:
        CommandFailed: A value cannot be what it is meant to be.
    """

    url: str  #: without a trailing slash
    token: str = ""
    user: str = ""
    password: str = ""
    ca_file: str = ""
    fingerprint: str = ""  #: SHA-256 of the certificate in hex, to be trusted alone

    def __post_init__(self) -> None:
        """Check what a person, the environment or a file gave."""
        object.__setattr__(self, "url", check_url(self.url))
        object.__setattr__(self, "fingerprint", check_fingerprint(self.fingerprint))
        for what, value, rule in (
            ("token", self.token, r"[!-~]*"),
            ("account", self.user, r"[^\0-\x1f\x7f\ud800-\udfff]*"),
            ("password", self.password, r"[^\ud800-\udfff]*"),
            ("CA file", self.ca_file, r"[^\0]*"),
        ):
            if not isinstance(value, str) or not re.fullmatch(rule, value, re.DOTALL):
                raise CommandFailed(f"The {what} has characters that none has; set it anew.", ExitCode.USAGE)


def profile_path(environment: Mapping[str, str] = os.environ) -> Path:
    """The profile's file: ODS_PROFILE, else `ods/profile.yaml` in the user's configuration directory."""
    if environment.get("ODS_PROFILE"):
        return Path(environment["ODS_PROFILE"])
    base = environment.get("XDG_CONFIG_HOME") or (environment.get("APPDATA") if os.name == "nt" else None)
    return Path(base or Path.home() / ".config") / "ods" / "profile.yaml"


def read_profile(path: Path) -> Connection | None:
    """The profile, or None if there is none.

    Raises:
        CommandFailed: It cannot be read.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return Connection(**loaded)
    except CommandFailed as exc:
        raise CommandFailed(
            f"The profile {path} is not valid: {exc.message} Write it anew with `ods login`.", ExitCode.USAGE
        ) from exc
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise CommandFailed(f"The profile {path} cannot be read: {exc.strerror}.", ExitCode.USAGE) from exc
    except (yaml.YAMLError, TypeError, UnicodeDecodeError) as exc:
        raise CommandFailed(
            f"The profile {path} is not valid; write it anew with `ods login`.", ExitCode.USAGE
        ) from exc


def write_profile(path: Path, connection: Connection) -> None:
    """Keep a profile, readable by its owner alone.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    values = {name: value for name, value in asdict(connection).items() if value}
    with os.fdopen(
        os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
    ) as file:
        yaml.safe_dump(values, file)
    temporary.replace(path)


def find_connection(
    *,
    url: str | None = None,
    user: str | None = None,
    ca_file: Path | None = None,
    fingerprint: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Connection:
    """Work out which node to speak to, and as whom.

    Raises:
        CommandFailed: The URL or the fingerprint is not one.
    """
    profile = read_profile(profile_path(environment))
    chosen = check_url(url or environment.get("ODS_URL") or (profile.url if profile else DEFAULT_URL))
    known = profile if profile is not None and profile.url == chosen else Connection(url=chosen)
    # A name on the command line means that account, whatever token there is.
    token = "" if user else environment.get("ODS_TOKEN", "")
    name = user or environment.get("ODS_USER", "")
    password = environment.get("ODS_PASSWORD", "")
    if not token and not name:
        token = known.token
    return Connection(
        url=chosen,
        token=token,
        user="" if token else name,
        password="" if token else password,
        ca_file=str(ca_file or environment.get("ODS_CA_FILE") or known.ca_file),
        fingerprint=check_fingerprint(fingerprint or environment.get("ODS_FINGERPRINT") or known.fingerprint),
    )


def check_url(url: str) -> str:
    """Return a node's URL without a trailing slash.

    Raises:
        CommandFailed: It is not one.
    """
    try:
        parts = urlsplit(url.strip())
        plain = re.fullmatch(r"[^\s?\0-\x1f\ud800-\udfff]+", url.strip()) and "@" not in parts.netloc
        fits = (
            plain
            and parts.port != 0
            and parts.scheme in {"http", "https"}
            and bool(check_host(parts.hostname or ""))
        )
    except (ValueError, AttributeError):  # brackets without an address, a port that is none; a number
        fits = False
    if not fits:
        raise CommandFailed(
            f'"{url}" is not the URL of a node, such as https://ods.example.com:8080.', ExitCode.USAGE
        )
    return url.strip().rstrip("/")


def check_fingerprint(text: str) -> str:
    """Return a SHA-256 fingerprint as 64 hex digits in lower case, or "".

    Raises:
        CommandFailed: It is not one.
    """
    plain = str(text).replace(":", "").strip().lower()
    if plain and not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise CommandFailed("A fingerprint is the SHA-256 of the certificate: 64 hex digits.", ExitCode.USAGE)
    return plain
