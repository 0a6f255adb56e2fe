"""A mail server: aiosmtpd on loopback, with STARTTLS, accounts, and refusals as it is told."""

import ssl
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.ports import free_port


class MailCatcher:
    """Takes mail while the block lasts.

    Args:
        certificate: PEM; with it STARTTLS is offered, and asked for before anything else.
        key: PEM.
        account: Name and password that are asked for, if any.
    """

    def __init__(
        self,
        certificate: Path | None = None,
        key: Path | None = None,
        account: tuple[str, str] | None = None,
    ) -> None:
        self.messages: list[EmailMessage] = []
        self.envelopes: list[tuple[str, list[str], bool]] = []  #: from, to, whether under TLS
        self.signed_in: list[str] = []
        self.answer = "250 OK"  #: to the message
        self.recipient_answer = "250 OK"
        options: dict[str, Any] = {}
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            options |= {"tls_context": context, "require_starttls": True}
        if account is not None:
            options |= {"authenticator": self._authenticate, "auth_required": True}
        self._account = account
        self._controller = Controller(self, hostname="127.0.0.1", port=free_port(), **options)

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._controller.stop()

    @property
    def port(self) -> int:
        return int(self._controller.port)

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        name, password = data.login.decode(), data.password.decode()
        good = (name, password) == self._account
        if good:
            self.signed_in.append(name)
        return AuthResult(success=good, handled=False)

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self.recipient_answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.recipient_answer

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:
        if not self.answer.startswith("250"):
            return self.answer
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        self.envelopes.append((envelope.mail_from or "", envelope.rcpt_tos, session.ssl is not None))
        return self.answer
