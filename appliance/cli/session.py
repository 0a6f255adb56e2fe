"""`ods login` and `ods logout`: a profile, so that other commands need neither URL nor token."""

import hashlib
import socket
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from appliance.peering.tls import client_context

from .client import NodeClient, ask_password, segment
from .command import command
from .exits import CommandFailed, ExitCode
from .options import DURATION, one_line
from .output import Output
from .profile import Connection, check_fingerprint, check_url, profile_path, read_profile, write_profile


@command("login")
@click.argument("url")
@click.option("--user", metavar="NAME", help="Account. Default: ask.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option(
    "--expires", type=DURATION, default="90d", show_default=True, help="Life of the token that is made."
)
@click.option("--ca-file", type=click.Path(path_type=Path, exists=True), help="Authorities to trust.")
@click.option(
    "--fingerprint", default="", metavar="HEX", help="Trust the certificate with this SHA-256 alone."
)
@click.pass_obj
def login(
    output: Output,
    url: str,
    user: str | None,
    password_stdin: bool,
    expires: int,
    ca_file: Path | None,
    fingerprint: str,
) -> None:
    """Make a token at a node with an account's password, and keep it with the URL for other commands."""
    url, pinned = check_url(url), check_fingerprint(fingerprint)
    ca = str(ca_file.absolute()) if ca_file else ""
    if url.startswith("https:") and not ca and not pinned:
        pinned = _pin_if_untrusted(url)
    name = user or click.prompt("Account", default="admin", err=True)
    password = one_line(sys.stdin.read()) if password_stdin else ask_password(name)
    connection = Connection(url=url, user=name, password=password, ca_file=ca, fingerprint=pinned)
    with NodeClient(connection) as client:
        made = client.post("/tokens", {"name": f"ods on {socket.gethostname()}"[:100], "expires_in": expires})
    path = profile_path()
    write_profile(path, Connection(url=url, token=made["token"], ca_file=ca, fingerprint=pinned))
    if output.json:
        output.data({"url": url, "account": name, "role": made["role"], "expires_at": made["expires_at"]})
    else:
        output.line(
            f"Signed in to {url} as {name} ({made['role']}) until {made['expires_at']}. Kept in {path}."
        )


@command("logout")
@click.pass_obj
def logout(output: Output) -> None:
    """Revoke the profile's token and delete the profile."""
    path = profile_path()
    profile = read_profile(path)
    if profile is None:
        raise CommandFailed("There is no profile; nobody is signed in.", ExitCode.NOT_FOUND)
    revoked = False
    if profile.token.count("_") >= 2:
        try:
            with NodeClient(profile) as client:
                client.delete(f"/tokens/{segment(profile.token.split('_')[1])}")
            revoked = True
        except CommandFailed as exc:
            output.note(f"The token was not revoked: {exc.message}")
    path.unlink(missing_ok=True)
    if output.json:
        output.data({"url": profile.url, "revoked": revoked})
    else:
        output.line(f"Signed out of {profile.url}.")


def _pin_if_untrusted(url: str) -> str:
    """The fingerprint to pin if no authority vouches for the certificate and the person does, else "".

    Raises:
        CommandFailed: The node cannot be reached, or the person does not trust it.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    try:
        with (
            socket.create_connection((host, port), timeout=10) as plain,
            client_context(pinned=False).wrap_socket(plain, server_hostname=host),
        ):
            return ""
    except ssl.SSLCertVerificationError:
        pass
    except OSError as exc:
        raise CommandFailed(
            f"The node {url} cannot be reached: {exc.strerror or exc}.", ExitCode.UNREACHABLE
        ) from exc
    try:
        with (
            socket.create_connection((host, port), timeout=10) as plain,
            client_context(pinned=True).wrap_socket(plain, server_hostname=host) as secure,
        ):
            found = hashlib.sha256(secure.getpeercert(binary_form=True) or b"").hexdigest()
    except OSError as exc:
        raise CommandFailed(
            f"The node {url} cannot be reached: {exc.strerror or exc}.", ExitCode.UNREACHABLE
        ) from exc
    shown = ":".join(found[at : at + 2] for at in range(0, len(found), 2))
    if not sys.stdin.isatty():
        raise CommandFailed(
            f"No authority vouches for the certificate of {url}. If its SHA-256 is the node's, give "
            f"--fingerprint {found}",
            ExitCode.UNREACHABLE,
        )
    click.echo(
        f"No authority vouches for the certificate of {url}. Its SHA-256 fingerprint is\n  {shown}", err=True
    )
    if not click.confirm("Is this the node's? (`ods init` shows it there)", err=True):
        raise CommandFailed("Not signed in.", ExitCode.NOT_ALLOWED)
    return found
