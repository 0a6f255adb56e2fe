"""Mail to a real SMTP server: STARTTLS, accounts, digests, and names that try to be headers or HTML."""

import datetime
from collections.abc import Iterator
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.destination import Destination, DestinationKind, DestinationState, MailMode
from appliance.domain.errors import InvalidInput
from appliance.domain.event import EventType
from appliance.peering.tls import client_context
from appliance.service.journal import entry
from appliance.service.notifications.mailbox import MAX_LISTED, MailServer, check_address, next_due
from tests.fakes.smtp import MailCatcher
from tests.harness.post import Post
from tests.keys import make_certificate
from tests.ports import free_port

ACCOUNT = ("ods", "secret of the mail server")


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Path, Path]:
    files = tmp_path / "smtp.crt", tmp_path / "smtp.key"
    make_certificate(*files, "localhost", now=datetime.datetime.now(datetime.UTC))
    return files


@pytest.fixture
def catcher() -> Iterator[MailCatcher]:
    with MailCatcher() as made:
        yield made


def server(catcher: MailCatcher, **changes: Any) -> MailServer:
    plain = MailServer(host="localhost", port=catcher.port, tls="none", sender="ods@example.com")
    return replace(plain, **changes)


async def mailbox(post: Post, **given: Any) -> str:
    made, secret = await post.destinations.add(
        {"name": "anna", "kind": "mail", "address": "anna@example.com", "events": ["package.*"], **given}, actor="a"
    )  # fmt: skip
    assert secret == ""
    return made.id


def parts(message: EmailMessage) -> tuple[str, str]:
    """The text and the HTML of a message."""
    text, page = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert page is not None
    return text.get_content(), page.get_content()


def test_starttls_and_account(post: Any, tls: tuple[Path, Path]) -> None:
    async def test(post: Post) -> None:
        await mailbox(post)
        await post.happen("A.pkg")
        await post.turn()
        assert await post.states() == ["delivered"]
        assert catcher.signed_in == ["ods"]
        assert catcher.envelopes == [("ods@example.com", ["anna@example.com"], True)]

    with MailCatcher(*tls, account=ACCOUNT) as catcher:
        trust = client_context(pinned=False, ca_file=str(tls[0]))
        mail = server(catcher, tls="starttls", trust=trust, username=ACCOUNT[0], password=ACCOUNT[1])
        post(test, mail=mail)


@pytest.mark.parametrize("fault", ["password", "certificate", "no_tls", "nobody", "none_wanted"])
def test_what_an_admin_can_mend_is_told_and_tried_again(
    post: Any, tls: tuple[Path, Path], fault: str
) -> None:
    expected = {
        "password": "refuses mail.username or mail.password",
        "certificate": "certificate of localhost is not trusted",
        "no_tls": "Check mail.tls",
        "nobody": "does not answer",
        "none_wanted": "Must issue a STARTTLS",
    }[fault]

    async def test(post: Post) -> None:
        id = await mailbox(post)
        await post.happen("A.pkg")
        await post.turn()
        row = (await post.rows())[0]
        assert row["state"] == "pending"
        assert expected in row["error"]
        assert ACCOUNT[1] not in row["error"]
        destination = await post.destinations.get(id)
        assert destination.not_before == row["due_at"] == post.clock() + 5000
        assert catcher.messages == []

    account = ACCOUNT if fault == "password" else None
    with MailCatcher(*(() if fault == "no_tls" else tls), account=account) as catcher:
        trust = client_context(pinned=False, ca_file=str(tls[0]))
        mail = {
            "password": server(catcher, tls="starttls", trust=trust, username="ods", password="another"),
            "certificate": server(catcher, tls="starttls", trust=client_context(pinned=False)),
            "no_tls": server(catcher, tls="starttls", trust=trust),
            "nobody": server(catcher, port=free_port()),
            "none_wanted": server(catcher),
        }[fault]
        post(test, mail=mail)


def test_a_burst_is_two_mails(post: Any, catcher: MailCatcher) -> None:
    async def test(post: Post) -> None:
        await mailbox(post)
        await post.happen("A.pkg")
        await post.turn()
        for number in range(7):
            await post.happen(f"{number}.pkg")
            post.clock.ms += 5000
            await post.turn()
        assert len(catcher.messages) == 1, "at most one a minute"
        post.clock.ms += 24_999
        await post.turn()
        assert len(catcher.messages) == 1
        post.clock.ms += 1
        await post.turn()
        assert len(catcher.messages) == 2
        assert [message["Subject"] for message in catcher.messages] == [
            "[Berlin] A.pkg was published", "[Berlin] 7 events",
        ]  # fmt: skip
        for body in parts(catcher.messages[1]):
            positions = [body.index(f"{number}.pkg was published") for number in range(7)]
            assert positions == sorted(positions)
            assert "A.pkg" not in body
        assert await post.states() == ["delivered"] * 8

    post(test, mail=server(catcher))


def test_a_digest_comes_once_a_day_with_everything_in_it(post: Any, catcher: MailCatcher) -> None:
    async def test(post: Post) -> None:
        berlin = {"hour": 6, "zone": "Europe/Berlin", "mode": "daily"}
        await mailbox(post, **berlin)
        post.clock.ms = moment(2030, 6, 1, 12)
        await post.happen(*(f"p{number}.pkg" for number in range(MAX_LISTED + 3)))
        await post.happen("bad.pkg", type=EventType.PACKAGE_DAMAGED)
        await post.turn()
        post.clock.ms = moment(2030, 6, 2, 4) - 1
        await post.turn()
        assert catcher.messages == []
        post.clock.ms += 1
        await post.turn()
        (message,) = catcher.messages
        assert message["Subject"] == f"[Berlin] Daily digest: {MAX_LISTED + 4} events"
        text, page = parts(message)
        assert f"{MAX_LISTED + 3}  package.published" in text
        assert "1  package.damaged" in text
        assert "2030-06-01 14:00:00 CEST" in text
        assert "And 4 more: see the event log of https://ods.example.com." in text
        assert page.count("<h2") == MAX_LISTED
        await post.happen("next.pkg")
        post.clock.ms += 3_600_000
        await post.turn()
        assert len(catcher.messages) == 1
        post.clock.ms = moment(2030, 6, 3, 4)
        await post.turn()
        assert catcher.messages[1]["Subject"] == "[Berlin] Daily digest: 1 event"

    post(test, mail=server(catcher))


def test_names_are_text_whatever_is_in_them(post: Any, catcher: MailCatcher) -> None:
    async def test(post: Post) -> None:
        await mailbox(post, events=["*"])
        evil = "x\r\nBcc: all@example.com\r\n\r\n<script>alert(1)</script> Ünï日本.pkg"
        event = entry(
            EventType.PACKAGE_PUBLISHED, at=post.clock(), actor="<b>anna</b>", subject="s", filename=evil
        )
        await post.store.batch([event])
        post.clock.ms += 60_000
        await post.turn()
        (message,) = catcher.messages
        assert catcher.envelopes[0][1] == ["anna@example.com"]
        assert message["Bcc"] is None
        assert message["To"] == "anna@example.com"
        text, page = parts(message)
        assert "Ünï日本.pkg" in text
        assert "<script>" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt; Ünï日本.pkg" in page
        assert "&lt;b&gt;anna&lt;/b&gt;" in page
        assert message["Auto-Submitted"] == "auto-generated"
        assert message["List-Id"].startswith("ODS notifications <notifications.")
        assert message["Message-ID"].endswith("@example.com>")
        assert message["From"] == "ODS Berlin <ods@example.com>"
        assert message["Date"].datetime == datetime.datetime.fromtimestamp(post.clock() // 1000, datetime.UTC)

    post(test, mail=server(catcher))


def test_a_mail_that_is_sent_again_has_its_old_id(post: Any, catcher: MailCatcher) -> None:
    async def test(post: Post) -> None:
        await mailbox(post)
        await post.happen("A.pkg")
        await post.turn()
        post.clock.ms += 3_600_000
        await post.deliveries.resend((await post.rows())[0]["_id"])
        await post.turn()
        assert [message["Message-ID"] for message in catcher.messages] == [
            catcher.messages[0]["Message-ID"]
        ] * 2

    post(test, mail=server(catcher))


def test_refusals_for_now_and_for_good(post: Any, catcher: MailCatcher) -> None:
    async def test(post: Post) -> None:
        id = await mailbox(post)
        catcher.answer = "451 4.3.0 come back later"
        await post.happen("A.pkg")
        await post.turn()
        row = (await post.rows())[0]
        assert (row["state"], row["status"]) == ("pending", 451)
        assert "come back later" in row["error"]
        catcher.answer, catcher.recipient_answer = "250 OK", "550 5.1.1 no such user"
        post.clock.ms = row["due_at"]
        await post.turn()
        row = (await post.rows())[0]
        assert (row["state"], row["status"]) == ("failed", 550)
        assert "refuses anna@example.com" in row["error"]
        destination = await post.destinations.get(id)
        assert destination.state is DestinationState.ACTIVE
        catcher.recipient_answer = "250 OK"
        attempt = await post.all.try_out(id)
        assert attempt.receipt is not None
        assert catcher.messages[0]["Subject"] == "[Berlin] This is a test"

    post(test, mail=server(catcher))


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("anna@example.com", "anna@example.com"),
        ("a.b+c@sub.example.com", "a.b+c@sub.example.com"),
        ("anna@bücher.example", "anna@xn--bcher-kva.example"),
        ("root@localhost", "root@localhost"),
    ],
)
def test_addresses(address: str, kept: str) -> None:
    assert check_address(address) == kept


@pytest.mark.parametrize(
    "address",
    ["", "anna", "@example.com", "anna@", "a b@example.com", "a@b@example.com", "anna@example.com\r\nBcc: x@y.z",
     "Anna <anna@example.com>", "anna@example.com, b@example.com", "änna@example.com", ".a@example.com",
     "a..b@example.com", "a@-x.com", "a@x_y.com", "a@" + "x" * 64 + ".com", "a" * 300 + "@example.com"],
)  # fmt: skip
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InvalidInput):
        check_address(address)


def moment(*numbers: int) -> int:
    """UTC milliseconds of a date and time."""
    year, month, day, *time = numbers
    return round(datetime.datetime(year, month, day, *time, tzinfo=datetime.UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("zone", "hour", "now", "due"),
    [
        ("UTC", 7, moment(2030, 1, 1, 6, 59), moment(2030, 1, 1, 7)),
        ("UTC", 7, moment(2030, 1, 1, 7), moment(2030, 1, 2, 7)),
        ("Europe/Berlin", 7, moment(2030, 3, 30, 12), moment(2030, 3, 31, 5)),  # summer time begins
        ("Europe/Berlin", 2, moment(2030, 3, 30, 12), moment(2030, 3, 31, 1)),  # an hour that is left out
        ("Europe/Berlin", 2, moment(2030, 10, 26, 12), moment(2030, 10, 27, 0)),  # an hour that comes twice
        ("Pacific/Kiritimati", 0, moment(2030, 1, 1, 11), moment(2030, 1, 2, 10)),
        ("America/Los_Angeles", 23, moment(2030, 1, 1, 6), moment(2030, 1, 1, 7)),
        ("No/Such", 7, moment(2030, 1, 1, 6), moment(2030, 1, 1, 7)),
    ],
)
def test_when_a_digest_is_due(zone: str, hour: int, now: int, due: int) -> None:
    destination = Destination(
        id="x", name="x", kind=DestinationKind.MAIL, events=("*",), mode=MailMode.DAILY, zone=zone, hour=hour
    )
    assert next_due(destination, now) == due


def test_zones_that_are_none(post: Any, catcher: MailCatcher) -> None:
    async def test(post: Post) -> None:
        for wrong in (
            {"zone": "No/Such"},
            {"zone": "../etc/passwd"},
            {"zone": ""},
            {"hour": 24},
            {"url": "x"},
        ):
            with pytest.raises(InvalidInput):
                await mailbox(post, **wrong)
        assert await post.destinations.all() == []

    post(test, mail=server(catcher))
