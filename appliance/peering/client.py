"""Calls to a peer's JSON endpoints: signed, bounded, without redirects. Bytes of packages go through `content`."""

import json
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import requests
import urllib3
from pydantic import BaseModel

from appliance.domain.errors import PeerMisbehaved, PeerUnreachable, WireInvalid
from appliance.domain.fingerprint import Digest
from appliance.domain.manifest import SHA1_BYTES, Manifest, chunk_count

from .address import PeerAddress
from .answers import foreign, is_of_a_node, refusal
from .identity import Identity
from .pace import USUAL, Limits, Pace
from .signing import sign_request
from .transport import BROKEN, session_for
from .wire import (
    Changes,
    NodeInfo,
    RecordsWire,
    Registered,
    Status,
    parse,
    parse_buckets,
    parse_digest,
    parse_manifest,
)

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

MAX_ANSWER = 40 * 1024 * 1024  #: bytes; a page of 500 records of 64 KiB
_MANIFEST_ROOM = 4096  #: bytes of a manifest's answer beside its chunk list, which takes 27 for each chunk
_UNSURE_MS = 2000
_BLOCK = 65_536


class PeerClient:
    """Calls one peer. Every method blocks, may be called from any thread, and raises only `PeerError`s."""

    def __init__(
        self,
        identity: Identity,
        address: PeerAddress,
        *,
        now: Callable[[], int],
        limits: Limits = USUAL,
        read_s: float | None = None,
    ) -> None:
        """Make a client; it connects when it is first used.

        Args:
            identity: Who calls, and signs.
            address: Whom.
            now: UTC milliseconds.
            limits: How long a call may take.
            read_s: Seconds without a byte, if other than in `limits`.
        """
        self.address = address
        self.clock_offset_ms = (
            0  #: how far the peer's clock is ahead of ours, as it said last, to a second or two
        )
        self._identity = identity
        self._now = now
        self._limits = limits
        self._read_s = limits.silence_s if read_s is None else read_s
        self._made: requests.Session | None = None
        self._making = threading.Lock()

    def node(self) -> NodeInfo:
        """Who the peer is."""
        return self._read(NodeInfo, self._call("GET", "/peer/v1/node"))

    def register(self, registration: Mapping[str, Any]) -> Registered:
        """Ask to be registered with an invite."""
        return self._read(Registered, self._call("POST", "/peer/v1/registrations", registration))

    def leave(self) -> None:
        """End the registration of this node at the peer."""
        self._call("DELETE", f"/peer/v1/registrations/{self._identity.node_id}")

    def announce(
        self,
        records: Sequence[Mapping[str, Any]],
        node: Mapping[str, Any] | None = None,
        compare: bool = False,
    ) -> None:
        """Say which records changed here: kind, id and revision of each.

        Args:
            records: What changed.
            node: As a greeting: our own `node` record.
            compare: Whether the peer lacks something, and should compare digests with us.
        """
        more: dict[str, Any] = {} if node is None else {"node": dict(node)}
        if compare:
            more["compare"] = True
        self._call("POST", "/peer/v1/announcements", {"records": list(records), **more})

    def changes(self, since: int, feed: str, wait_s: float = 0.0) -> Changes:
        """A page of the peer's change feed behind position `since` of the feed `feed`."""
        answer = self._call(
            "GET", f"/peer/v1/changes?since={since}&feed={feed}&wait={wait_s:g}", extra_s=wait_s
        )
        return self._read(Changes, answer)

    def digest(self, root: str) -> Digest | None:
        """The digest of what the peer knows; None if it is the one of this root."""
        answer = self._call("GET", f"/peer/v1/digest?root={root}")
        return self._checked(lambda: parse_digest(answer, root))

    def fingerprints(self, buckets: Sequence[int]) -> dict[int, set[int]]:
        """The fingerprints of some of these buckets of the peer's digest, at least one."""
        answer = self._call("POST", "/peer/v1/digest/fingerprints", {"buckets": list(buckets)})
        return self._checked(lambda: parse_buckets(answer, buckets))

    def digest_records(self, fingerprints: Sequence[int]) -> list[Any]:
        """The peer's records of these fingerprints, unchecked."""
        answer = self._call("POST", "/peer/v1/digest/records", {"fingerprints": list(fingerprints)})
        return self._read(RecordsWire, answer).records

    def status(self, hops: int) -> Status:
        """What the peer says of itself, and with `hops` what it heard of its own peers."""
        return self._read(Status, self._call("GET", f"/peer/v1/status?hops={hops}"))

    def package(self, id: str) -> dict[str, Any]:
        """The full signed record of a package."""
        answer = self._call("GET", f"/peer/v1/packages/{id}")
        if not isinstance(answer, dict):
            raise PeerMisbehaved("Its package record is not an object.")
        return answer

    def manifest(self, id: str, sha256: str, size: int) -> Manifest:
        """The manifest of a package's bytes, of which its record states the size."""
        limit = min(MAX_ANSWER, _MANIFEST_ROOM + 2 * SHA1_BYTES * chunk_count(size))
        answer = self._call("GET", f"/peer/v1/packages/{id}/manifest?sha256={sha256}", limit=limit)
        return self._checked(lambda: parse_manifest(answer))

    def _read(self, model: type[M], answer: Any) -> M:
        return self._checked(lambda: parse(model, answer))

    @staticmethod
    def _checked(read: Callable[[], T]) -> T:
        """What an answer says, if it follows the protocol."""
        try:
            return read()
        except WireInvalid as exc:
            raise PeerMisbehaved(exc.message) from exc

    def chunks(self, id: str, sha256: str) -> bytes:
        """Which chunks of a package's bytes the peer holds: one bit each, lowest first."""
        return self._exchange("GET", f"/peer/v1/packages/{id}/chunks?sha256={sha256}")

    def proof(self, id: str, sha256: str, chunk: int, holder: str) -> bytes:
        """A chunk of a package's bytes as `holder` has it: the peer itself, or one that it is registered with."""
        return self._exchange(
            "GET", f"/peer/v1/packages/{id}/proof?sha256={sha256}&chunk={chunk}&holder={holder}"
        )

    def complain(self, id: str, sha256: str, chunk: int) -> None:
        """Say that a chunk of a package's bytes came from this peer and is wrong."""
        self._call("POST", f"/peer/v1/packages/{id}/complaints", {"sha256": sha256, "chunk": chunk})

    def close(self) -> None:
        """Close idle connections; a later call opens new ones."""
        with self._making:
            made, self._made = self._made, None
        if made is not None:
            made.close()

    def _call(
        self, method: str, path: str, data: Any = None, *, extra_s: float = 0.0, limit: int | None = None
    ) -> Any:
        answer = self._exchange(method, path, data, extra_s=extra_s, limit=limit)
        if not answer:
            return None
        try:
            return json.loads(answer)
        except (ValueError, RecursionError) as exc:
            raise foreign(self.address.url) from exc

    def _exchange(
        self, method: str, path: str, data: Any = None, *, extra_s: float = 0.0, limit: int | None = None
    ) -> bytes:
        """Ask, and return the body of a successful answer."""
        url = self.address.url + path
        body = b"" if data is None else json.dumps(data, separators=(",", ":")).encode()
        # Not compressed: a small answer could hide a huge one, and the records of a feed are few.
        own = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if body:
            own["Content-Type"] = "application/json"
        headers = sign_request(self._identity, method, url, body, now=self._now, headers=own)
        try:
            with self._session().request(
                method,
                url,
                data=body or None,
                headers=headers,
                timeout=(self._limits.connect_s, self._read_s + extra_s),
                allow_redirects=False,
                stream=True,
            ) as response:
                self._compare_clocks(response.headers.get("Date", ""))
                answer = self._bounded(response, MAX_ANSWER if limit is None else limit)
                status = response.status_code
                lowered = {name.lower(): value for name, value in response.headers.items()}
        except (*BROKEN, urllib3.exceptions.HTTPError) as exc:
            raise PeerUnreachable(f"{self.address.url} cannot be reached: {_reason(exc)}.") from exc
        if not 200 <= status < 300:
            raise refusal(status, lowered, answer)
        if answer and not is_of_a_node(lowered):
            raise foreign(self.address.url)
        return answer

    def _session(self) -> requests.Session:
        with self._making:
            if self._made is None:
                self._made = session_for(self.address)
            return self._made

    def _compare_clocks(self, date: str) -> None:
        """Note what an answer's Date header (RFC 9110, 6.6.1) says of the peer's clock; it has whole seconds."""
        try:
            said = round(parsedate_to_datetime(date).timestamp() * 1000) + 500
        except (ValueError, OverflowError, OSError):
            return
        offset = said - self._now()
        self.clock_offset_ms = offset if abs(offset) > _UNSURE_MS else 0

    def _bounded(self, response: requests.Response, limit: int) -> bytes:
        """The body, if it is not too large, not too slow and as it was sent."""
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise PeerMisbehaved("It compresses its answer, which it was not asked for.")
        answer = bytearray()  # not a list of blocks: a peer may send them a byte at a time
        pace = Pace(self.address.url, self._limits)
        while block := response.raw.read1(_BLOCK, decode_content=False):
            answer += block
            if len(answer) > limit:
                raise PeerMisbehaved(f"Its answer is larger than {limit} bytes.")
            pace.received(len(block))
        return bytes(answer)


def _reason(exc: BaseException) -> str:
    """The innermost reason in a few words; requests wraps it several times over."""
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"its TLS certificate is not trusted ({seen.verify_message}); http.tls.ca_file names authorities"
        if isinstance(seen, urllib3.exceptions.SSLError) and "ingerprint" in str(seen):
            return "its TLS certificate is not the one that it told of; is it this node, and can it call us?"
        if isinstance(seen, OSError) and seen.strerror and not isinstance(seen, requests.RequestException):
            return seen.strerror
        inner = seen.args[0] if seen.args and isinstance(seen.args[0], BaseException) else None
        seen = getattr(seen, "reason", None) or inner or seen.__cause__ or seen.__context__
        if not isinstance(seen, BaseException):
            break
    if isinstance(exc, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "it does not answer in time"
    return type(exc).__name__
