"""Mail: addresses, messages of one or many events, and the server that takes them."""

import contextlib
import hashlib
import html
import re
import smtplib
import ssl
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from appliance.domain.destination import Destination, MailMode
from appliance.domain.errors import InvalidInput
from appliance.domain.event import Event
from appliance.domain.notify_errors import DeliveryError, DeliveryRefused
from appliance.log import scrub

from .alarm import cut_after
from .bodies import Teller
from .webhook import Receipt
from .wording import facts_of, one_line, title_of

TIMEOUT_S = 15.0  #: of one step
TOTAL_S = 60.0  #: of all steps once connected
MAX_LISTED = 200  #: events that one message tells in full
QUIET_MS = 60_000  #: at most one immediate mail in so many milliseconds

_ADDRESS = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?=.{1,253}\Z)"
    r"[^\W_](?:(?:[^\W_]|-){0,61}[^\W_])?(?:\.[^\W_](?:(?:[^\W_]|-){0,61}[^\W_])?)*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """How mail leaves this node."""

    host: str
    port: int
    tls: Literal["none", "starttls", "implicit"]
    sender: str  #: the address that mail comes from
    username: str = ""
    password: str = ""
    trust: ssl.SSLContext | None = None  #: verifies the server's certificate; None without TLS


def check_address(address: str) -> str:
    """Return a mail address with its domain in ASCII.

    Raises:
        InvalidInput: It is not one address such as anna@example.com.
    """
    local, _, domain = address.rpartition("@")
    if (
        len(address) > 254
        or not _ADDRESS.fullmatch(address)
        or ".." in address
        or local[:1] == "."
        or local[-1:] == "."
    ):
        raise InvalidInput(f"{one_line(address, 100)!r} is not one mail address such as anna@example.com.")
    try:
        return f"{local}@{domain.encode('idna').decode('ascii')}"
    except UnicodeError:
        raise InvalidInput(
            f"The domain of {one_line(address, 100)!r} is none that mail can be sent to."
        ) from None


def zone_of(destination: Destination) -> tzinfo:
    """The time zone of a mailbox; UTC if this machine no longer knows it."""
    try:
        return ZoneInfo(destination.zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def next_due(destination: Destination, now: int) -> int:
    """When an event that happens now is told to a mailbox, UTC milliseconds."""
    if destination.mode is MailMode.IMMEDIATE:
        return now
    zone = zone_of(destination)
    today = datetime.fromtimestamp(now / 1000, zone).date()
    for day in (today, today + timedelta(days=1), today + timedelta(days=2)):
        # A wall-clock time that a change to summer time leaves out counts as the one before the change.
        at = datetime(day.year, day.month, day.day, destination.hour, tzinfo=zone)
        due = round(at.astimezone(UTC).timestamp() * 1000)
        if due > now:
            return due
    raise AssertionError("no hour of the next two days is in the future")


def compose(
    destination: Destination, events: Sequence[Event], teller: Teller, *, sender: str, at: int
) -> EmailMessage:
    """A message that tells of events, oldest first, as text and as HTML.

    Args:
        destination: The mailbox.
        events: At least one.
        teller: This node.
        sender: The address that it comes from.
        at: Now, UTC milliseconds.
    """
    message = EmailMessage(policy=SMTP)
    daily = destination.mode is MailMode.DAILY
    count = f"{len(events)} event{'' if len(events) == 1 else 's'}"
    title = title_of(events[0]) if len(events) == 1 and not daily else count
    heading = f"Daily digest: {count}" if daily else title
    message["Subject"] = one_line(f"[{teller.name}] {heading}", 200)
    message["From"] = Address(one_line(f"ODS {teller.name}", 100), addr_spec=sender)
    message["To"] = Address("", addr_spec=destination.address)
    message["Date"] = datetime.fromtimestamp(at / 1000, UTC)
    domain = sender.rpartition("@")[2]
    digest = hashlib.sha256(
        "\0".join([destination.id, teller.id, *(f"{e.seq}:{e.at}" for e in events)]).encode()
    )
    message["Message-ID"] = f"<{digest.hexdigest()[:32]}@{domain}>"  # the same when it is sent again
    message["List-Id"] = f"ODS notifications <notifications.{teller.id[:16]}.{domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    message.set_content(_text(heading, events, destination, teller))
    message.add_alternative(_html(heading, events, destination, teller), subtype="html")
    return message


def send(message: EmailMessage, server: MailServer, recipient: str) -> Receipt:
    """Hand a message to the mail server. Blocks.

    Raises:
        DeliveryRefused: The server refuses the recipient for good.
        DeliveryError: The server cannot be reached, or refuses for now or for a reason that an admin can mend.
    """
    try:
        with _session(server) as session:
            session.send_message(message, server.sender, [recipient])
    except smtplib.SMTPRecipientsRefused as exc:
        code, reason = next(iter(exc.recipients.values()))
        kind = DeliveryRefused if code in {550, 551, 553, 554} else DeliveryError
        raise kind(f"{server.host} refuses {recipient}: {_words(reason)}", status=code) from exc
    except smtplib.SMTPAuthenticationError as exc:
        raise DeliveryError(
            f"{server.host} refuses mail.username or mail.password ({exc.smtp_code}).", status=exc.smtp_code
        ) from exc
    except smtplib.SMTPResponseException as exc:
        raise DeliveryError(
            f"{server.host} answered {exc.smtp_code} {_words(exc.smtp_error)}", status=exc.smtp_code
        ) from exc
    except smtplib.SMTPNotSupportedError as exc:
        raise DeliveryError(f"{server.host}: {_words(str(exc))} Check mail.tls and mail.username.") from exc
    except ssl.SSLCertVerificationError as exc:
        raise DeliveryError(
            f"The certificate of {server.host} is not trusted: {exc.verify_message}. Set mail.ca_file if it is "
            "from an authority of your own."
        ) from exc
    except (OSError, smtplib.SMTPException) as exc:
        raise DeliveryError(f"The mail server {server.host} does not answer: {_words(str(exc))}") from exc
    return Receipt(status=250, answer="The mail server took it.")


@contextlib.contextmanager
def _session(server: MailServer) -> Iterator[smtplib.SMTP]:
    assert server.tls == "none" or server.trust is not None, "smtplib would take any certificate"
    if server.tls == "implicit":
        session: smtplib.SMTP = smtplib.SMTP_SSL(
            server.host, server.port, timeout=TIMEOUT_S, context=server.trust
        )
    else:
        session = smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_S)
    with cut_after(TOTAL_S, lambda: session.sock):
        try:
            if server.tls == "starttls":
                session.starttls(context=server.trust)
            if server.username:
                session.login(server.username, server.password)
            yield session
            # The message is taken. A farewell that goes wrong must not have it sent again.
            with contextlib.suppress(OSError, smtplib.SMTPException):
                session.quit()
        finally:
            session.close()


def _text(heading: str, events: Sequence[Event], destination: Destination, teller: Teller) -> str:
    lines = [heading, "=" * len(heading), ""]
    if len(events) > 1:
        lines += [f"{count:>5}  {type}" for type, count in _counts(events)] + [""]
    for event in events[:MAX_LISTED]:
        lines.append(f"* {_when(event, destination)}  {title_of(event)}")
        lines += [f"    {name}: {value}" for name, value in facts_of(event)]
        lines.append("")
    lines += [*_more(events, teller), "-- ", f"{teller.name}, {teller.url}", ""]
    return "\n".join(lines)


def _html(heading: str, events: Sequence[Event], destination: Destination, teller: Teller) -> str:
    escape = html.escape
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><body style="font-family:sans-serif">',
        f"<h1 style='font-size:1.3em'>{escape(heading)}</h1>",
    ]
    if len(events) > 1:
        rows = "".join(
            f"<tr><td align='right'>{count}</td><td>{escape(type)}</td></tr>"
            for type, count in _counts(events)
        )
        parts.append(f"<table cellpadding='4'>{rows}</table>")
    for event in events[:MAX_LISTED]:
        facts = "".join(
            f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts_of(event)
        )
        parts.append(
            f"<h2 style='font-size:1.1em'>{escape(title_of(event))}</h2>"
            f"<p>{escape(_when(event, destination))}</p><table cellpadding='4'>{facts}</table>"
        )
    parts += [f"<p>{escape(line)}</p>" for line in _more(events, teller) if line]
    parts.append(f"<hr><p>{escape(teller.name)}, {escape(teller.url)}</p></body></html>")
    return "\n".join(parts)


def _counts(events: Sequence[Event]) -> list[tuple[str, int]]:
    return Counter(event.type for event in events).most_common()


def _more(events: Sequence[Event], teller: Teller) -> list[str]:
    left = len(events) - MAX_LISTED
    return [f"And {left} more: see the event log of {teller.url}.", ""] if left > 0 else []


def _when(event: Event, destination: Destination) -> str:
    moment = datetime.fromtimestamp(event.at / 1000, zone_of(destination))
    return moment.strftime("%Y-%m-%d %H:%M:%S %Z")


def _words(answer: str | bytes) -> str:
    """What a server said, on one line that ends with a full stop."""
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
    return one_line(scrub(text), 200).rstrip(".") + "."
