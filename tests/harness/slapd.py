"""A real OpenLDAP server of a test's own: its directory, its certificate, its people."""

import contextlib
import datetime
import ipaddress
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.ports import free_port

from .node import die_with_parent
from .waiting import eventually

BASE = "dc=example,dc=com"
PEOPLE = f"ou=people,{BASE}"
GROUPS = f"ou=groups,{BASE}"
ROOT = f"cn=root,{BASE}"
READER = f"cn=reader,{BASE}"
ROOT_PASSWORD = "the root of it all"
READER_PASSWORD = "may read, and no more"
SCHEMAS = ("core", "cosine", "inetorgperson", "nis")
SCHEMA_DIRECTORIES = (Path("/etc/ldap/schema"), Path("/etc/openldap/schema"))


class Authority:
    """An authority that a test makes, and its certificates."""

    def __init__(self, directory: Path, name: str = "Test Authority") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.file = directory / "ca.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
        )

    def issue(self, name: str, hosts: Iterable[str]) -> tuple[Path, Path]:
        """A certificate for hosts and addresses; return the files of it and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = []
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        certificate = (
            self._builder(subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        files = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def find_slapd() -> str | None:
    """The server's program, if it is installed with its schemas."""
    if not any((path / "core.schema").exists() for path in SCHEMA_DIRECTORIES):
        return None
    return shutil.which("slapd") or shutil.which("slapd", path="/usr/sbin:/usr/libexec:/usr/lib/openldap")


class Slapd:
    """One server: made with its entries, started, stopped, frozen.

    Args:
        directory: Its own.
        entries: LDIF of what it knows, behind the base.
        authority: Signs its certificate.
        hosts: What the certificate is for.
        tls: Without it the server refuses StartTLS and has no ldaps.
        extra: More lines of its configuration.
    """

    def __init__(
        self,
        directory: Path,
        entries: str,
        *,
        authority: Authority,
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
        tls: bool = True,
        extra: str = "",
    ) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "db").mkdir()
        self._program = find_slapd() or "slapd"
        self.port, self.tls_port = free_port(), free_port()
        self._ports = (self.port, self.tls_port) if tls else (self.port,)
        self._urls = f"ldap://127.0.0.1:{self.port}" + (f" ldaps://127.0.0.1:{self.tls_port}" if tls else "")
        self.log = directory / "log"
        self._configuration = directory / "slapd.conf"
        lines = ""
        if tls:
            certificate, key = authority.issue("slapd", hosts)
            lines = f"TLSCertificateFile {certificate}\nTLSCertificateKeyFile {key}\n"
        self._configuration.write_text(self._written(lines, extra))
        ldif = directory / "entries.ldif"
        ldif.write_text(f"{_base()}\n{entries}", "utf-8")
        self._run("slapadd", "-f", str(self._configuration), "-l", str(ldif))
        self._process: subprocess.Popen[bytes] | None = None

    def _written(self, tls: str, extra: str) -> str:
        schemas = next(path for path in SCHEMA_DIRECTORIES if (path / "core.schema").exists())
        includes = "\n".join(f"include {schemas}/{name}.schema" for name in SCHEMAS)
        modules = next(
            (path for path in (Path("/usr/lib/ldap"), Path("/usr/lib64/openldap")) if path.is_dir()), None
        )
        return f"""{includes}
{f"modulepath {modules}" if modules else ""}
moduleload back_mdb
pidfile {self._directory}/pid
argsfile {self._directory}/args
{tls}{extra}
database mdb
maxsize 16777216
suffix "{BASE}"
rootdn "{ROOT}"
rootpw "{ROOT_PASSWORD}"
directory {self._directory}/db
index objectClass,uid,member,uniqueMember eq
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{READER}" read by * none
"""

    def _run(self, tool: str, *arguments: str) -> None:
        path = shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin") or tool
        done = subprocess.run([path, *arguments], capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, f"{tool}: {done.stderr.decode(errors='replace')}"

    @property
    def ldaps(self) -> str:
        """The URL of TLS from the first byte."""
        return f"ldaps://localhost:{self.tls_port}"

    @property
    def starttls(self) -> str:
        """The URL of StartTLS."""
        return f"ldap://localhost:{self.port}"

    def start(self) -> "Slapd":
        """Start it, and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-f", str(self._configuration), "-h", self._urls, "-d", "stats"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
        eventually(self._answers, 30, self.tail)
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"slapd ended at its start:\n{self.tail()}")
        if "slapd starting" not in self.tail():
            return False
        for port in self._ports:  # it says so before it listens
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
            except ConnectionRefusedError:
                return False
        return True

    def modify(self, ldif: str) -> None:
        """Change entries of the running server, as its administrator."""
        path = shutil.which("ldapmodify") or "ldapmodify"
        done = subprocess.run(
            [path, "-x", "-H", f"ldap://127.0.0.1:{self.port}", "-D", ROOT, "-w", ROOT_PASSWORD],
            input=ldif.encode(),
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, f"ldapmodify: {done.stderr.decode(errors='replace')}"

    def binds(self) -> int:
        """How many binds were tried since it was made."""
        return sum(" BIND dn=" in line and "method=128" in line for line in self.tail(None).splitlines())

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def freeze(self) -> None:
        """Let it hang: connections are taken by the kernel, and nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def dispose(self) -> None:
        """End it, whatever it does."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._process = None

    def tail(self, lines: int | None = 40) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return text if lines is None else "\n".join(text.splitlines()[-lines:])


def _base() -> str:
    return (
        "\n\n".join(
            (
                f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Example",
                f"dn: {PEOPLE}\nobjectClass: organizationalUnit\nou: people",
                f"dn: {GROUPS}\nobjectClass: organizationalUnit\nou: groups",
                f"dn: {READER}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\n"
                f"cn: reader\nuserPassword: {READER_PASSWORD}",
            )
        )
        + "\n"
    )
