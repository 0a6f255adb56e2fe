"""Where notifications may go: what a URL may say, and which addresses may be connected to.

A name is resolved once and the connection goes to the address that was checked, so that an answer of DNS that
changes in between (rebinding) leads nowhere.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from appliance.domain.errors import InvalidInput
from appliance.domain.notify_errors import AddressNotAllowed, DeliveryError

MAX_URL = 2048
_TRIED = 4  #: addresses of one name that are looked at
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  #: RFC 6052: an IPv4 address in the last 32 bits
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[?[0-9A-Fa-f:.]{2,45}\]?")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the settings allow."""

    hosts: tuple[str, ...] = ()  #: names such as `hooks.slack.com` or `*.example.com`; empty: all
    allow_private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL in its parts."""

    tls: bool
    host: str  #: lower case, ASCII, without brackets
    port: int
    path: str  #: with the query

    @property
    def authority(self) -> str:
        """Host and port as a Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """The URL without what could be a secret: the paths and queries of chat services are keys."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{'/…' if self.path != '/' else '/'}"


def parse_url(url: str, policy: Policy, *, allow_private: bool) -> Target:
    """Check the URL of a webhook.

    Args:
        url: As an admin wrote it.
        policy: What the settings allow.
        allow_private: Whether plain HTTP is fine for this destination.

    Raises:
        InvalidInput: It is not a URL that may be used; the message says why and never has the URL.
    """
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidInput(f"A URL has at most {MAX_URL} printable ASCII characters without spaces.")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise InvalidInput("This is not a URL such as https://hooks.example.com/ods.") from None
    if parts.scheme not in {"https", "http"} or not _HOST.fullmatch(host) or port == 0:
        raise InvalidInput("This is not a URL such as https://hooks.example.com/ods.")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise InvalidInput("The URL must have no user name, no password and no #fragment.")
    if parts.scheme == "http" and not (allow_private or policy.allow_private):
        raise InvalidInput(
            "Webhooks go to https:// only; for a receiver in your own network set allow_private."
        )
    if policy.hosts and not any(_fits(host, pattern) for pattern in policy.hosts):
        raise InvalidInput(
            f"The host {host} is not in notifications.allowed_hosts ({', '.join(policy.hosts)})."
        )
    target = Target(
        tls=parts.scheme == "https",
        host=host,
        port=port or (443 if parts.scheme == "https" else 80),
        path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
    )
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return target
    reason = refusal(literal, allow_private=allow_private or policy.allow_private)
    if reason:
        raise InvalidInput(reason)
    return target


def resolve(target: Target, *, allow_private: bool) -> list[str]:
    """The addresses of a target, every one checked. Blocks while DNS answers.

    Raises:
        AddressNotAllowed: One of them is not allowed.
        DeliveryError: The name is not known.
    """
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise DeliveryError(f"The name {target.host} is not known: {_reason(exc)}.") from exc
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        reason = refusal(ipaddress.ip_address(address), allow_private=allow_private)
        if reason:
            raise AddressNotAllowed(reason)
    return addresses[:_TRIED]


def refusal(address: Address, *, allow_private: bool) -> str:
    """Why an address must not be connected to, or ""."""
    for each in _led_to(address):
        if each.is_multicast or each.is_unspecified or (each.is_reserved and not each.is_loopback):
            return f"The address {address} is none that a webhook can go to."
        if not each.is_global and not allow_private:
            return (
                f"The address {address} is in a private, loopback or link-local network. If the receiver is "
                "yours, set allow_private for this destination."
            )
    return ""


def _led_to(address: Address) -> Sequence[Address]:
    """Where a packet to this address may end: IPv6 has several ways to say an IPv4 address."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    found: list[Address] = [address]
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found.extend(address.teredo)
    return found


def _fits(host: str, pattern: str) -> bool:
    pattern = pattern.lower()
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", "") or str(error)).rstrip(".")
