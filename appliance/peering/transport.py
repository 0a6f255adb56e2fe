"""How requests reaches a peer: our TLS rules, no proxies, no cookies, and an end to slow answers."""

import http.client
import socket
import ssl
import threading
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from .address import PeerAddress
from .tls import client_context

_CONNECTIONS = 16  #: kept open to one peer: as many as calls can be made at a time


def session_for(address: PeerAddress) -> requests.Session:
    """A session for one peer. Threads may share it: it keeps no cookies and nothing else that changes."""
    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.clear()
    adapter = _Adapter(address)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _InTime:
    """A connection on which status and headers come within the time-out, all of them.

    The time-out of a socket begins anew with each byte, so a peer that sends one a second would hold its caller
    for hours.
    """

    sock: socket.socket | None
    timeout: float | None

    def getresponse(self) -> Any:
        """The answer, as soon as its headers are here."""
        sock, timeout = self.sock, self.timeout
        if sock is None or timeout is None:
            return super().getresponse()  # type: ignore[misc]
        late = threading.Event()
        timer = threading.Timer(timeout, _shut, [sock, late])
        timer.daemon = True
        timer.start()
        try:
            answer = super().getresponse()  # type: ignore[misc]
        finally:
            timer.cancel()
        if late.is_set():  # http.client takes headers that were cut off for all of them
            answer.close()
            raise TimeoutError("timed out")
        return answer


def _shut(sock: socket.socket, late: threading.Event) -> None:
    late.set()
    try:
        # That of the plain socket: the one of TLS would change what the reading thread is using.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already


class _Connection(_InTime, HTTPConnection):
    pass


class _TlsConnection(_InTime, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    """Connects with our TLS rules."""

    def __init__(self, address: PeerAddress) -> None:
        self._address = address
        super().__init__(pool_connections=1, pool_maxsize=_CONNECTIONS, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._address.tls:
            pin = self._address.tls_fingerprint
            kwargs["ssl_context"] = client_context(pinned=bool(pin), ca_file=self._address.ca_file)
            if pin:
                kwargs.update(assert_fingerprint=pin, cert_reqs=ssl.CERT_NONE, assert_hostname=False)
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Host and port of a request; its TLS rules are those of the pool, made above."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The TLS context decides, not requests' settings."""


#: what requests lets through from below, beside its own errors and OSError
BROKEN = (requests.RequestException, http.client.HTTPException, OSError)
