"""The door to a Jamf Pro server."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from .classic import ClassicDistributionPoints, NetworkSegments, WebHooks
from .cloud_files import CloudFiles, CloudInventory
from .credentials import ClientCredentials, CredentialsProvider, UserCredentials
from .download import SILENCE_S
from .errors import JamfSurprise
from .pro import PAGE, Categories, DistributionPoints, Packages
from .session import Deprecation, PathMapper, Session
from .version import JamfVersion
from .xml import to_xml


@dataclass(frozen=True, slots=True)
class Authorization:
    """Who is signed in."""

    username: str
    kind: str  #: Jamf Pro's word, such as CLIENT_CREDENTIALS
    privileges: frozenset[str]


class Server:
    """A Jamf Pro server; use it as an async context manager, or call `close` at the end.

    Collections are made by calling them: `server.Packages()`. Nothing is read before it is asked for.
    """

    def __init__(
        self,
        url: str,
        *,
        client_id: str | None = None,
        client_secret: str | None = None,
        username: str | None = None,
        password: str | None = None,
        credentials: CredentialsProvider | None = None,
        verify: bool = True,
        ca_file: Path | None = None,
        timeout_s: float = 30.0,
        max_connections: int = 5,
        user_agent: str = "ods-jamf-bridge",
        transport: httpx.AsyncBaseTransport | None = None,
        paths: PathMapper | None = None,
        allow_hosts: Sequence[str] = (),
        allow_insecure_cloud: bool = False,
    ) -> None:
        """Prepare a connection; it is made when it is first used.

        Args:
            url: Such as https://example.jamfcloud.com.
            client_id: An API client's id; with `client_secret`.
            client_secret: Its secret.
            username: A user account instead; with `password`.
            password: Its password.
            credentials: Another way to sign in instead of these.
            verify: Whether the server's certificate is checked.
            ca_file: PEM file of authorities that are trusted beside the system's.
            timeout_s: Seconds for a connection, and without a byte.
            max_connections: Jamf advises at most five.
            user_agent: Sent with each request.
            transport: Another transport for httpx, for tests.
            paths: Maps paths for a gateway before Jamf Pro.
            allow_hosts: Hosts that cloud files may be downloaded from; empty: any public one.
            allow_insecure_cloud: Let cloud files come by plain HTTP and from any address: for tests.

        Raises:
            ValueError: Not exactly one way to sign in was given.
        """
        self._session = Session(
            url,
            credentials or _credentials(client_id, client_secret, username, password),
            verify=verify,
            ca_file=ca_file,
            timeout_s=timeout_s,
            max_connections=max_connections,
            user_agent=user_agent,
            transport=transport,
            paths=paths,
        )
        self._allow_hosts = tuple(host.lower() for host in allow_hosts)
        self._allow_insecure = allow_insecure_cloud
        self._transport = transport
        self._plain: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Sign out and let go of the connections."""
        await self._session.close()
        if self._plain is not None:
            await self._plain.aclose()

    @property
    def requests_made(self) -> int:
        """How many requests were sent to the server."""
        return self._session.requests_made

    @property
    def notices(self) -> list[Deprecation]:
        """Calls that the server says will go away, each once."""
        return list(self._session.notices)

    # Collections

    def Packages(self, page_size: int = PAGE) -> Packages:  # noqa: N802 - python-jamf's name
        """All package records."""
        return Packages(self._session, page_size)

    def DistributionPoints(self, page_size: int = PAGE) -> DistributionPoints:  # noqa: N802 - python-jamf's name
        """All file share distribution points, from Jamf Pro 11.16 on."""
        return DistributionPoints(self._session, page_size)

    def ClassicDistributionPoints(self) -> ClassicDistributionPoints:  # noqa: N802 - after python-jamf
        """All file share distribution points, before Jamf Pro 11.16."""
        return ClassicDistributionPoints(self._session)

    def Categories(self, page_size: int = PAGE) -> Categories:  # noqa: N802 - python-jamf's name
        """All categories."""
        return Categories(self._session, page_size)

    def WebHooks(self) -> WebHooks:  # noqa: N802 - python-jamf's name
        """All webhooks."""
        return WebHooks(self._session)

    def NetworkSegments(self) -> NetworkSegments:  # noqa: N802 - python-jamf's name
        """All network segments."""
        return NetworkSegments(self._session)

    def CloudFiles(self) -> CloudFiles:  # noqa: N802 - after python-jamf
        """The files in Jamf's own cloud."""
        return CloudFiles(self._session, self._unsigned_client, self._check_download)

    def CloudInventory(self) -> CloudInventory:  # noqa: N802 - after python-jamf
        """What the cloud distribution point lists."""
        return CloudInventory(self._session)

    # The server itself

    async def version(self) -> JamfVersion:
        """The version of Jamf Pro."""
        answer = await self._session.json("GET", "/api/v1/jamf-pro-version")
        return JamfVersion.parse(str(answer.get("version") or "") if isinstance(answer, Mapping) else "")

    async def authorization(self) -> Authorization:
        """Who is signed in, and what that account may do."""
        answer = await self._session.json("GET", "/api/v1/auth")
        account = answer.get("account") if isinstance(answer, Mapping) else None
        if not isinstance(account, Mapping):
            raise JamfSurprise("The answer names no account.", call="GET /api/v1/auth")
        found: set[str] = set()
        sites = account.get("privilegesBySite")
        for names in sites.values() if isinstance(sites, Mapping) else ():
            found.update(str(name) for name in names if isinstance(name, str))
        return Authorization(
            username=str(account.get("username") or ""),
            kind=str(answer.get("authenticationType") or ""),
            privileges=frozenset(found),
        )

    async def cloud_distribution_point(self) -> dict[str, Any]:
        """The cloud distribution point; its `cdnType` is NONE where there is none."""
        answer = await self._session.json("GET", "/api/v1/cloud-distribution-point")
        return dict(answer) if isinstance(answer, Mapping) else {}

    async def healthy(self) -> bool:
        """Whether the server says that it is well."""
        status, _, _ = await self._session.call("GET", "/api/v1/health-check")
        return status == 204

    # Anything else

    async def request(self, method: str, path: str, **options: Any) -> Any:
        """Call the Pro API: the JSON body, or None.

        Args:
            method: GET, POST, ...
            path: Such as /api/v1/packages.
            **options: httpx's params, json, files, ...
        """
        return await self._session.json(method, path, **options)

    async def classic(
        self, method: str, path: str, *, root: str = "", fields: Mapping[str, Any] | None = None
    ) -> bytes:
        """Call the Classic API with a document of `fields` in the element `root`; return the body."""
        options: dict[str, Any] = {}
        if fields is not None:
            options = {
                "content": to_xml(root, fields),
                "headers": {"Content-Type": "text/xml", "Accept": "text/xml"},
            }
        _, _, body = await self._session.call(method, path, **options)
        return body

    # Downloads

    def _unsigned_client(self) -> httpx.AsyncClient:
        if self._plain is None:
            self._plain = httpx.AsyncClient(
                timeout=httpx.Timeout(SILENCE_S, connect=10.0),
                follow_redirects=False,
                trust_env=False,
                transport=self._transport,
            )
        return self._plain

    def _check_download(self, url: str) -> None:
        """Let a URL that the server gave be fetched from.

        Raises:
            JamfSurprise: It is not https, leads to a private address, or to a host that is not allowed.
        """
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        if self._allow_insecure and parts.scheme in {"http", "https"} and host:
            return
        if parts.scheme != "https" or not host:
            raise JamfSurprise("Jamf Pro gave a download URL that is not https.")
        if self._allow_hosts and host not in self._allow_hosts:
            raise JamfSurprise(f"Downloads from {host} are not allowed by the settings (cloud_hosts).")
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
                raise JamfSurprise(f"Jamf Pro gave a download URL at {host}.") from None
            return
        if not address.is_global:
            raise JamfSurprise(f"Jamf Pro gave a download URL at the private address {host}.")


def _credentials(
    client_id: str | None, client_secret: str | None, username: str | None, password: str | None
) -> CredentialsProvider:
    if client_id and client_secret and not username:
        return ClientCredentials(client_id, client_secret)
    if username and password and not client_id:
        return UserCredentials(username, password)
    raise ValueError("give client_id and client_secret, or username and password")
