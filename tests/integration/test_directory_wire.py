"""What goes over the wire to a directory: no password without TLS, and bounds on servers that misbehave."""

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from appliance.domain.errors import DirectoryUnavailable
from appliance.service.directory import Directory
from appliance.service.directory.conversation import Conversation, ServerFailed, Trust
from config.directory import Directory as Options
from tests.conftest import skip_or_fail
from tests.fakes.tap import Answer, Tap
from tests.harness.people import ANNA, company, password_of
from tests.harness.slapd import BASE, READER, READER_PASSWORD, Authority, Slapd, find_slapd

# Extended responses (RFC 4511, 4.12): StartTLS granted, StartTLS refused as "unavailable". A bind that succeeded.
GRANTED = bytes.fromhex("78070a010004000400")
REFUSED = bytes.fromhex("78070a013404000400")
BOUND = bytes.fromhex("61070a010004000400")

SECRETS = (READER_PASSWORD.encode(), password_of(ANNA).encode(), READER.encode())


def options(url: str, authority: Authority) -> Options:
    return Options(
        servers=(url,),
        ca_file=str(authority.file),
        bind_dn=READER,
        bind_password=READER_PASSWORD,
        base_dn=BASE,
        groups={"readers": "viewer"},
        connect_timeout_s=1,
        receive_timeout_s=1,
    )


def refused(url: str, authority: Authority) -> str:
    """What a server's health says after a sign-in that must fail for want of it."""

    async def go() -> str:
        directory = Directory(options(url, authority), lambda: 0)
        try:
            with pytest.raises(DirectoryUnavailable):
                await directory.sign_in(ANNA, password_of(ANNA))
            return directory.health()[0].error
        finally:
            directory.close()

    return asyncio.run(go())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def test_without_tls_no_password_is_sent(authority: Authority, tmp_path: Path) -> None:
    """The server takes passwords in clear, and knows no StartTLS."""
    if find_slapd() is None:
        skip_or_fail("there is no slapd: apt-get install slapd ldap-utils")
    server = Slapd(tmp_path / "slapd", company(), authority=authority, tls=False)
    try:
        server.start()
        with Tap(server.port) as tap:
            said = refused(f"ldap://localhost:{tap.port}", authority)
        assert said.startswith("tls: it refuses StartTLS")
        assert b"1.3.6.1.4.1.1466.20037" in tap.heard
        assert not any(secret in tap.heard for secret in SECRETS)
        assert server.binds() == 0
    finally:
        server.dispose()


def test_with_tls_nothing_can_be_read(authority: Authority, tmp_path: Path) -> None:
    if find_slapd() is None:
        skip_or_fail("there is no slapd: apt-get install slapd ldap-utils")
    server = Slapd(tmp_path / "slapd", company(), authority=authority)
    try:
        server.start()
        with Tap(server.port) as tap:

            async def go() -> None:
                directory = Directory(options(f"ldap://localhost:{tap.port}", authority), lambda: 0)
                assert await directory.sign_in(ANNA, password_of(ANNA)) is not None
                directory.close()

            asyncio.run(go())
        assert tap.heard.count(b"1.3.6.1.4.1.1466.20037") == 2
        assert not any(secret in tap.heard for secret in SECRETS)
    finally:
        server.dispose()


def always(answer: bytes) -> Answer:
    return lambda _piece: answer


def to_the_question(answer: bytes) -> Answer:
    """An LDAP message with the number that the question has."""

    def of(piece: bytes) -> bytes:
        if piece[:1] != b"\x30":
            return answer
        number = piece[2 : 4 + piece[3]]
        return bytes((0x30, len(number) + len(answer))) + number + answer

    return of


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (to_the_question(REFUSED), "tls: it refuses StartTLS: startTLS failed - unavailable"),
        (to_the_question(GRANTED), "tls: "),  # and then no TLS
        (to_the_question(BOUND), ""),
        (always(b""), "did not answer in time"),
        (always(b"HTTP/1.1 400 Bad Request\r\n\r\n"), ""),
        (always(b"\x30\x84\x7f\xff\xff\xff"), ""),  # two gigabytes are to come
        (always(b"\x30\x00"), ""),
        (always(b"\x30\x80" * 5000), ""),
        (always(b"\x00" * 100), ""),
        (always(b"\xff" * 100), ""),
        (always(b"\x30\x0c\x02\x01\x63" + GRANTED), ""),  # to another question
    ],
)
@pytest.mark.parametrize("scheme", ["ldap", "ldaps"])
def test_whatever_a_liar_answers(authority: Authority, scheme: str, answer: Answer, said: str) -> None:
    with Tap(answer=answer) as tap:
        found = refused(f"{scheme}://localhost:{tap.port}", authority)
    assert found
    assert scheme == "ldaps" or said in found
    assert not any(secret in tap.heard for secret in SECRETS)


class Dripping(Tap):
    """A byte now and then, and never the end of the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.enough, self.left = threading.Event(), threading.Event()

    def _talk(self, client: socket.socket) -> None:
        try:
            client.recv(65536)
            client.sendall(b"\x30\x84\x00\xff\xff\xff")
            while not self.enough.wait(0.1):
                client.sendall(b"\x02")
        except OSError:
            self.left.set()


def test_a_server_that_drips(authority: Authority) -> None:
    """Each byte comes in time, the answer never: the whole has a bound too, and the connection is let go."""

    async def go(url: str) -> None:
        directory = Directory(options(url, authority), lambda: 0)
        try:
            with pytest.raises(DirectoryUnavailable):
                await directory.sign_in(ANNA, password_of(ANNA))
        finally:
            directory.close()

    with Dripping() as tap:
        asyncio.run(go(f"ldap://localhost:{tap.port}"))
        assert tap.left.wait(30)
        tap.enough.set()


def test_too_much_at_once(authority: Authority) -> None:
    """A directory that hangs makes people wait, and beyond a number refuses at once."""

    async def go() -> None:
        with Tap() as tap:
            directory = Directory(options(f"ldap://localhost:{tap.port}", authority), lambda: 0)
            try:
                found = await asyncio.gather(
                    *(directory.find(f"user{number}") for number in range(60)), return_exceptions=True
                )
            finally:
                directory.close()
        assert all(isinstance(error, DirectoryUnavailable) for error in found)
        assert sum("Too many" in str(error) for error in found) == 60 - 36

    asyncio.run(go())


def test_a_conversation_without_a_checked_certificate_says_nothing(authority: Authority) -> None:
    """Also if someone inside forgets to open it, or it ended: it never reconnects by itself."""
    with Tap(answer=to_the_question(BOUND)) as tap:
        conversation = Conversation(
            f"ldap://localhost:{tap.port}", Trust(str(authority.file)), connect_s=1, receive_s=1
        )
        with pytest.raises(ServerFailed, match="not protected"):
            conversation.bind(READER, READER_PASSWORD)
        with pytest.raises(ServerFailed, match="not protected"):
            conversation.search(BASE, "(objectClass=*)", [], limit=1)
        with pytest.raises(ServerFailed):
            conversation.open()
        with pytest.raises(ServerFailed, match="not protected"):
            conversation.bind(READER, READER_PASSWORD)
    assert not any(secret in tap.heard for secret in SECRETS)
