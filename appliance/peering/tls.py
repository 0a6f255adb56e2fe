"""TLS between nodes: certificates that a node makes for itself, and clients that pin them.

A self-signed certificate is trusted because its fingerprint travels in the invite and in the signed node record.
"""

import datetime
import functools
import hashlib
import ipaddress
import os
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.domain.errors import InvalidSettings

LIFE_DAYS = 3650
OLDEST = ssl.TLSVersion.TLSv1_2  #: some builds of Python, Debian's among them, leave the choice to OpenSSL


def new_certificate(host: str, *, now: datetime.datetime) -> tuple[bytes, bytes]:
    """Return a new self-signed certificate and its key, as PEM, valid ten years for `host` and this machine.

    Args:
        host: Host name or address of the node's URL.
        now: The time.
    """
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    try:
        names.append(x509.IPAddress(ipaddress.ip_address(host)))
    except ValueError:
        names.append(x509.DNSName(host))
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=LIFE_DAYS))
        .add_extension(x509.SubjectAlternativeName(list(dict.fromkeys(names))), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return built.public_bytes(Encoding.PEM), pem


def write_certificate(certificate: Path, key: Path, pems: tuple[bytes, bytes]) -> None:
    """Write a certificate and its key (mode 0600)."""
    certificate.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(pems[1])
    certificate.write_bytes(pems[0])


def fingerprint(certificate: Path) -> str:
    """The SHA-256 of a PEM certificate's DER form, hex.

    Raises:
        InvalidSettings: The file holds no certificate.
    """
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as exc:
        raise InvalidSettings(f"{certificate} holds no PEM certificate: {exc}") from exc
    return hashlib.sha256(loaded.public_bytes(Encoding.DER)).hexdigest()


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A context to serve with.

    Raises:
        InvalidSettings: Certificate or key cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = OLDEST
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except _Encrypted as exc:
        raise InvalidSettings(f"The TLS key {key} is encrypted; write it without a passphrase.") from exc
    except (OSError, ssl.SSLError) as exc:
        raise InvalidSettings(
            f"The TLS certificate {certificate} with the key {key} cannot be used: {exc}"
        ) from exc
    return context


class _Encrypted(Exception):
    """A key needs a passphrase."""


def _no_passphrase() -> str:
    """Called for an encrypted key; without this OpenSSL would ask on the terminal and wait."""
    raise _Encrypted


def same_certificate(der: bytes, pin: str) -> bool:
    """Whether a certificate, as DER, is the one whose SHA-256 is pinned in hex."""
    return hashlib.sha256(der).hexdigest() == pin.lower()


@functools.cache
def client_context(*, pinned: bool, ca_file: str = "") -> ssl.SSLContext:
    """A context to call peers with: one for all, because each takes 20 ms and a megabyte to make.

    Args:
        pinned: The caller compares the certificate's fingerprint right after the handshake; else the certificate is
            verified against the system's authorities, or `ca_file`.
        ca_file: A PEM file of authorities to trust beside the system's; read once.

    Raises:
        OSError: The file cannot be read, or holds no certificate.
    """
    if pinned:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = OLDEST
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context = ssl.create_default_context()
    context.minimum_version = OLDEST
    if ca_file:
        context.load_verify_locations(ca_file)
    return context
