"""One HTTP POST to an address that was checked: no redirects, no proxy, bounded in time and in what is read.

`http.client` is used as it is; only where it connects to is decided here. Each socket operation has a time-out, and
an alarm cuts the connection when all of them together take too long, so that a receiver which sends a byte every
few seconds holds nobody up.
"""

import contextlib
import email.utils
import http.client
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC

from appliance import __version__
from appliance.domain.notify_errors import DeliveryError, DestinationGone
from appliance.log import scrub

from .addresses import Target
from .alarm import cut_after
from .wording import one_line

CONNECT_S = 5.0
OPERATION_S = 10.0
TOTAL_S = 15.0  #: of one attempt, DNS excepted
MAX_ANSWER = 4096  #: bytes that are read
SHOWN_ANSWER = 200  #: characters that are kept
MAX_RETRY_AFTER_S = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a destination said when it took a notification."""

    status: int  #: of HTTP or SMTP
    answer: str = ""  #: its first characters, on one line


def post(
    target: Target,
    addresses: Sequence[str],
    body: bytes,
    headers: Mapping[str, str],
    *,
    trust: ssl.SSLContext | None,
    total_s: float = TOTAL_S,
) -> Receipt:
    """Send a webhook and read the beginning of the answer. Blocks.

    Args:
        target: Where to.
        addresses: Its addresses, checked; tried in this order until one takes the connection.
        body: As it is.
        headers: Beside Host, Content-Length and User-Agent.
        trust: Verifies the receiver's certificate; None for plain HTTP.
        total_s: Seconds for everything.

    Raises:
        DestinationGone: The receiver answered 410.
        DeliveryError: It cannot be reached, or answered anything else than 2xx; `status`, `answer` and
            `retry_after` are in the details.
    """
    connection = _Connection(target, addresses, trust)
    with contextlib.closing(connection), cut_after(total_s, lambda: connection.plain) as rang:
        try:
            connection.request("POST", target.path, body, {"User-Agent": f"ODS/{__version__}", **headers})
            with connection.getresponse() as response:
                if rang.is_set():  # headers that were cut off pass for whole ones
                    raise TimeoutError
                answer = _beginning(response)
        except ssl.SSLCertVerificationError as exc:
            raise DeliveryError(
                f"The certificate of {target.host} is not trusted: {exc.verify_message}."
            ) from exc
        except (OSError, http.client.HTTPException) as exc:
            if rang.is_set() or isinstance(exc, TimeoutError):
                raise DeliveryError(f"{target.host} did not answer in time.") from exc
            raise DeliveryError(f"{target.host} does not answer as a web server: {_reason(exc)}.") from exc
    return _judged(target, response, answer)


def _judged(target: Target, response: http.client.HTTPResponse, answer: str) -> Receipt:
    status = response.status
    if 200 <= status < 300:
        return Receipt(status=status, answer=answer)
    if status == 410:
        raise DestinationGone(
            f"{target.host} answered 410: it wants no more of this.", status=status, answer=answer
        )
    what = f"{target.host} answered {status}"
    if 300 <= status < 400:
        what += "; redirects are not followed: set the final URL"
    details: dict[str, object] = {"status": status, "answer": answer}
    after = _retry_after(response.headers.get("Retry-After", ""))
    if after is not None and status in {429, 503}:
        details["retry_after"] = after
    raise DeliveryError(f"{what}.", **details)


class _Connection(http.client.HTTPConnection):
    """Speaks to the host of the target at one of the addresses given."""

    def __init__(self, target: Target, addresses: Sequence[str], trust: ssl.SSLContext | None) -> None:
        super().__init__(target.host, target.port, timeout=OPERATION_S)
        self.default_port = 443 if target.tls else 80  # for the Host header
        self._target = target
        self._addresses = addresses
        self._trust = trust
        self.plain: socket.socket | None = None  #: what an alarm may shut down

    def connect(self) -> None:
        """Connect to the first address that answers; speak TLS with the name of the target."""
        error: OSError = OSError("there is no address")
        for address in self._addresses:
            try:
                sock = socket.create_connection((address, self._target.port), CONNECT_S)
            except OSError as exc:
                error = exc
                continue
            sock.settimeout(OPERATION_S)
            self.plain = self.sock = sock
            if self._trust is not None:
                self.sock = self._trust.wrap_socket(sock, server_hostname=self._target.host)
                self.plain = self.sock
            return
        raise error


def _beginning(response: http.client.HTTPResponse) -> str:
    """The first characters of an answer; one whose body does not come is an answer all the same."""
    data = b""
    with contextlib.suppress(OSError, http.client.HTTPException):
        while len(data) < MAX_ANSWER and (block := response.read1(MAX_ANSWER - len(data))):
            data += block
    return one_line(scrub(data.decode("utf-8", "replace")), SHOWN_ANSWER)


def _retry_after(value: str) -> int | None:
    """Seconds, from a number or an HTTP date; at most a day."""
    if value.isascii() and value.isdigit() and len(value) < 10:
        return min(int(value), MAX_RETRY_AFTER_S)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0, round(moment.timestamp() - time.time())), MAX_RETRY_AFTER_S)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return one_line(scrub(text), SHOWN_ANSWER).rstrip(".")
