"""Certificates that a node makes, and connections that pin them."""

import datetime
import hashlib
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from appliance.domain.errors import InvalidSettings, PeerUnreachable
from appliance.peering.address import PeerAddress
from appliance.peering.client import PeerClient
from appliance.peering.content import ContentPool
from appliance.peering.identity import Identity
from appliance.peering.tls import client_context, fingerprint, server_context
from jamf_bridge.jamf.session import _tls
from tests.builders import manifest_of
from tests.keys import make_certificate

NOW = datetime.datetime.now(datetime.UTC)
ME = Identity.generate()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "keys" / "cert.pem", directory / "keys" / "key.pem"
    make_certificate(certificate, key, "node.example", now=NOW)
    return certificate, key


def test_what_it_is_good_for(pair: tuple[Path, Path]) -> None:
    loaded = x509.load_pem_x509_certificate(pair[0].read_bytes())
    names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"localhost", "node.example"}
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert loaded.not_valid_before_utc < NOW < loaded.not_valid_after_utc
    assert (loaded.not_valid_after_utc - NOW).days > 3600
    assert not loaded.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert stat.S_IMODE(pair[1].stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "192.0.2.7", "2001:db8::1", "h" * 63 + ".example.com"]
)
def test_any_host(tmp_path: Path, host: str) -> None:
    make_certificate(tmp_path / "c.pem", tmp_path / "k.pem", host, now=NOW)
    server_context(tmp_path / "c.pem", tmp_path / "k.pem")
    assert len(fingerprint(tmp_path / "c.pem")) == 64


def test_the_fingerprint_is_that_of_the_certificate_on_the_wire(pair: tuple[Path, Path]) -> None:
    der = ssl.PEM_cert_to_DER_cert(pair[0].read_text())
    assert fingerprint(pair[0]) == hashlib.sha256(der).hexdigest()


def test_files_that_cannot_be_used(pair: tuple[Path, Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("nonsense")
    make_certificate(tmp_path / "c2.pem", tmp_path / "k2.pem", "x", now=NOW)
    for path in (bad, tmp_path / "missing.pem"):
        with pytest.raises(InvalidSettings, match=path.name):
            fingerprint(path)
        with pytest.raises(InvalidSettings, match=path.name):
            server_context(path, pair[1])
    with pytest.raises(InvalidSettings):
        server_context(pair[0], tmp_path / "k2.pem")


def test_old_versions_of_tls_are_refused(pair: tuple[Path, Path]) -> None:
    for context in (server_context(*pair), client_context(pinned=True), client_context(pinned=False)):
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert client_context(pinned=False).verify_mode is ssl.CERT_REQUIRED
    assert client_context(pinned=False).check_hostname


class TlsServer:
    """Answers every request with an empty JSON object and remembers what it was sent."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with plain:
                try:
                    with self._context.wrap_socket(plain, server_side=True) as secured:
                        secured.settimeout(5)
                        data = secured.recv(65_536)
                        if data:
                            self.requests.append(data)
                        secured.sendall(
                            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
                            b"Connection: close\r\n\r\n{}"
                        )
                except OSError:
                    continue

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def server(pair: tuple[Path, Path]) -> Iterator[TlsServer]:
    made = TlsServer(server_context(*pair))
    yield made
    made.close()


def address(server: TlsServer, host: str = "127.0.0.1", **more: str) -> PeerAddress:
    return PeerAddress(node="n", url=f"https://{host}:{server.port}", **more)


def call(to: PeerAddress) -> None:
    PeerClient(ME, to, now=lambda: time.time_ns() // 1_000_000, read_s=5).leave()


def fetch(to: PeerAddress) -> None:
    with ContentPool(ME, lambda: time.time_ns() // 1_000_000).connection(to) as connection:
        connection.fetch("p", manifest_of(b"x"), range(1), lambda *_: None)


@pytest.mark.parametrize("way", [call, fetch])
def test_a_certificate_that_nobody_vouches_for_is_refused(server: TlsServer, way: object) -> None:
    with pytest.raises(PeerUnreachable, match=r"(?i)certificate|verif"):
        way(address(server))  # type: ignore[operator]
    assert server.requests == [], "no signature leaves before the peer is known"


@pytest.mark.parametrize("way", [call, fetch])
def test_another_certificate_than_the_pinned_one_is_refused(server: TlsServer, way: object) -> None:
    with pytest.raises(PeerUnreachable):
        way(address(server, tls_fingerprint="0" * 64))  # type: ignore[operator]
    assert server.requests == []


def test_the_pinned_one_is_taken_whatever_the_name(server: TlsServer, pair: tuple[Path, Path]) -> None:
    pin = fingerprint(pair[0])
    call(address(server, tls_fingerprint=pin))
    call(address(server, "127.0.0.1", tls_fingerprint=pin.upper()))
    assert len(server.requests) == 2


def test_an_authority_of_ones_own(server: TlsServer, pair: tuple[Path, Path]) -> None:
    call(address(server, ca_file=str(pair[0])))
    assert len(server.requests) == 1


def test_a_good_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    make_certificate(tmp_path / "c.pem", tmp_path / "k.pem", "node.example", now=NOW)
    server = TlsServer(server_context(tmp_path / "c.pem", tmp_path / "k.pem"))
    try:
        for way in (call, fetch):
            with pytest.raises(PeerUnreachable):
                way(address(server, "127.0.0.2", ca_file=str(tmp_path / "c.pem")))
        assert server.requests == []
    finally:
        server.close()


@pytest.mark.parametrize("way", [call, fetch])
def test_no_tls_at_all(way: object) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65_536)
                peer.sendall(b"HTTP/1.1 400 No\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(PeerUnreachable):
            way(PeerAddress(node="n", url=url, tls_fingerprint="0" * 64))  # type: ignore[operator]
        thread.join(5)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_passphrase(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    private = serialization.load_pem_private_key(pair[1].read_bytes(), None)
    encrypted = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "k.pem").write_bytes(encrypted)
    with pytest.raises(InvalidSettings, match="without a passphrase"):
        server_context(pair[0], tmp_path / "k.pem")


def test_old_versions_of_tls_are_refused_whatever_the_build_of_python(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = ssl.create_default_context

    def lenient() -> ssl.SSLContext:
        """As that of Debian 13, which leaves the choice to OpenSSL."""
        context = usual()
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        return context

    monkeypatch.setattr(ssl, "create_default_context", lenient)
    client_context.cache_clear()
    try:
        jamf = _tls(verify=True, ca_file=None)
        assert isinstance(jamf, ssl.SSLContext)
        made = [server_context(*pair), client_context(pinned=True), client_context(pinned=False), jamf]
        assert [context.minimum_version for context in made] == [ssl.TLSVersion.TLSv1_2] * 4
    finally:
        client_context.cache_clear()
