"""Every page of a node that knows 5,000 packages and 50 nodes: the time that the server takes, and the browser."""

import asyncio
import hashlib
import http.client
import re
import statistics
from collections.abc import Iterator
from dataclasses import asdict
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from appliance.domain.names import package_id
from appliance.domain.node import NodeBody
from appliance.domain.package import Package, PackageBody, Presence, ReplicaBody
from appliance.domain.record import Record, RecordKind
from appliance.peering.identity import Identity
from appliance.peering.records import sign_record
from appliance.service.catalogue import package_doc
from appliance.service.records import record_doc
from appliance.store.opening import open_store
from appliance.store.ports import Insert

from .browsing import browse
from .cases import Bench, Row, running
from .nodes import PASSWORD, Node

NODES = 50
PACKAGES = 5_000
ROUNDS = 15
LIMIT_S = 0.2
AT = 1_750_000_000_000
_AT_ONCE = 2_000
_PAGES = (
    "/ui/", "/ui/packages", "/ui/packages?q=7&sort=-size", "/ui/upload", "/ui/network", "/ui/replication",
    "/ui/transfers", "/ui/jobs", "/ui/users", "/ui/tokens", "/ui/sessions", "/ui/audit", "/ui/settings",
    "/ui/about", "/ui/directory", "/ui/mdm", "/ui/notifications", "/ui/deliveries",
)  # fmt: skip
_STAGES = ("dev", "test", "prod")


def pages(bench: Bench) -> list[Row]:
    """Each page several times, alone; the slowest counts."""
    count = bench.many(PACKAGES)
    directory = bench.place("pages")
    print(f"  pages: {count} packages on {NODES} nodes are written ...", flush=True)
    asyncio.run(_fill(directory / "data", count))
    node = Node(directory / "run", "a", ODS_DATA_DIR=str(directory / "data"), ODS_NODE_STAGE="prod")
    rows = []
    with running(node):
        connected = _connect(node)
        asyncio.run(_owe(directory / "data", count, *connected))
        cookie = _sign_in(node)
        server, destination = (f"/ui/mdm/{connected[0]}", f"/ui/notifications/{connected[1]}")
        some = f"/ui/packages/{package_id(_name(count // 2))}"
        names = {path: path for path in _PAGES} | {
            some: "/ui/packages/{id}",
            server: "/ui/mdm/{id}",
            destination: "/ui/notifications/{id}",
        }
        for path, name in names.items():
            for _ in range(ROUNDS):
                status, _, body = _get(node, path, cookie)
                assert status == 200, (path, status, body[:300])
            took = [line["ms"] / 1000 for line in node.events("request") if line["path"] == path]
            print(
                f"  {name:<32} {statistics.median(took) * 1000:6.1f} ms, at most {max(took) * 1000:6.1f} ms"
            )
            met = max(took) <= LIMIT_S
            rows.append(
                Row(case=f"page {name}", ours=max(took), rival="", theirs=0.0, target="<= 0.2 s", met=met)
            )
        rows += browse(node.url, names, cookie)
    return rows


def _connect(node: Node) -> tuple[str, str]:
    """An MDM server and a destination that are switched off; their ids."""
    jamf = {"url": "https://192.0.2.1", "client_id": "id", "client_secret": "secret"}
    server = node.api(
        "POST", "/mdm/servers", {"name": "Jamf", "kind": "jamf", "enabled": False, "settings": jamf}
    )
    destination = node.api(
        "POST",
        "/destinations",
        {"name": "Chat", "kind": "webhook", "url": "https://hooks.example.com/", "enabled": False},
    )
    return str(server["id"]), str(destination["id"])


async def _owe(data: Path, count: int, server: str, destination: str) -> None:
    """Write that every package was mirrored, and that a webhook was told of it."""
    store = await open_store("", data)
    for start in range(0, count, _AT_ONCE):
        batch: list[Insert] = []
        for number in range(start, min(count, start + _AT_ONCE)):
            link = {
                "_id": f"{server}:{package_id(_name(number))}", "server": server, "state": "mirrored",
                "package": package_id(_name(number)), "file_name": _name(number), "remote_id": str(number), "at": AT,
            }  # fmt: skip
            row = {
                "_id": f"{number:012d}.{destination}", "destination": destination, "seq": number, "attempts": 1,
                "type": "package.published", "subject": package_id(_name(number)), "state": "delivered",
                "due_at": AT, "status": 200, "latency_ms": 20, "answer": "ok", "error": "", "created_at": AT,
                "updated_at": AT + number, "delivered_at": AT,
            }  # fmt: skip
            batch += [Insert("mdm_links", link), Insert("deliveries", row)]
        await store.batch(batch)
    await store.close()


def _name(number: int) -> str:
    return f"Package {number:05d}.pkg"


async def _fill(data: Path, count: int) -> None:
    """Write what the node would have learned from others: signed records, and its own view of the packages."""
    store = await open_store("", data)
    nodes = [Identity.generate() for _ in range(NODES - 1)]
    batch: list[Insert] = []
    for operation in _documents(nodes, count):
        batch.append(operation)
        if len(batch) >= _AT_ONCE:
            await store.batch(batch)
            batch = []
    await store.batch(batch)
    await store.close()


def _documents(nodes: list[Identity], count: int) -> Iterator[Insert]:
    for number, identity in enumerate(nodes):
        body = NodeBody(
            name=f"Site {number:02d}", url=f"http://192.0.2.{number}:8080", stage="test", version="1"
        )
        yield _record(identity, RecordKind.NODE, identity.node_id, asdict(body))
    for number in range(count):
        author, name = nodes[number % len(nodes)], _name(number)
        digest = hashlib.sha256(name.encode()).hexdigest()
        body = PackageBody(
            filename=name, size=1_000_000 * (1 + number % 900), sha1=digest[:40], sha256=digest, manifest=digest,
            stage="test", tags=(f"tag-{number % 20}",), uploaded_at=AT, origin=author.node_id,
        )  # fmt: skip
        id = package_id(name)
        yield _record(author, RecordKind.PACKAGE, id, asdict(body))
        view = Package(
            id=id, revision=1, author=author.node_id, at=AT + number, withdrawn=False, body=body,
            presence=Presence.NOT_ADMITTED, reason="test packages are not sent to prod nodes unless they are promoted",
        )  # fmt: skip
        yield Insert("packages", package_doc(view, AT))
        for identity in nodes:
            replica = ReplicaBody(
                package=id,
                node=identity.node_id,
                sha256=digest,
                presence="held",
                reason="a test package goes here",
            )
            yield _record(identity, RecordKind.REPLICA, f"{id}.{identity.node_id}", asdict(replica))


def _record(identity: Identity, kind: RecordKind, id: str, body: dict[str, Any]) -> Insert:
    record: Record = sign_record(identity, kind=kind, id=id, revision=1, at=AT, deleted=False, body=body)
    return Insert("records", record_doc(record))


def _get(node: Node, path: str, cookie: str, data: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Status, cookies and body of a page."""
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=60)
    kind = {"Content-Type": "application/x-www-form-urlencoded"} if data else {}
    connection.request(
        "POST" if data else "GET", path, urlencode(data) if data else None, {"Cookie": cookie, **kind}
    )
    answer = connection.getresponse()
    body = answer.read().decode()
    given = SimpleCookie(answer.headers.get("Set-Cookie", ""))
    connection.close()
    return answer.status, "; ".join(f"{name}={morsel.value}" for name, morsel in given.items()), body


def _sign_in(node: Node) -> str:
    """The cookie of a session."""
    _, cookie, body = _get(node, "/ui/sign-in", "")
    match = re.search(r'name="_xsrf" value="([^"]+)"', body)
    assert match is not None
    form = {"name": "admin", "password": PASSWORD, "_xsrf": match[1]}
    status, session, _ = _get(node, "/ui/sign-in", cookie, form)
    assert status == 303
    return session
