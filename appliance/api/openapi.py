"""The description of the admin API in OpenAPI 3.1, and a page to read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from pydantic import BaseModel

from appliance import __version__

from . import models
from .base import BaseHandler

_TEXT: dict[str, Any] = {"type": "string"}
_TIME: dict[str, Any] = {"type": ["string", "null"], "format": "date-time"}
_INT: dict[str, Any] = {"type": "integer"}
_YES: dict[str, Any] = {"type": "boolean"}
_WORDS: dict[str, Any] = {"type": "array", "items": _TEXT}
_ANY: dict[str, Any] = {"type": "object"}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


_NAMED: dict[str, dict[str, Any]] = {
    "Package": _object(
        id=_TEXT, filename=_TEXT, size=_INT, sha1=_TEXT, sha256=_TEXT, stage=_TEXT, tags=_WORDS, notes=_TEXT,
        metadata=_ANY, revision=_INT, author=_TEXT, changed_at=_TIME, uploaded_at=_TIME, uploaded_by=_TEXT,
        origin=_TEXT, withdrawn=_YES, presence=_TEXT, reason=_TEXT, url=_TEXT,
        replicas={"type": "array", "items": {"$ref": "#/components/schemas/Replica"}}, manifest=_ANY,
        superseded={"type": "array", "items": _ANY},
    ),
    "Replica": _object(
        node=_TEXT, name=_TEXT, presence=_TEXT, reason=_TEXT, sha256=_TEXT, current=_YES, at=_TIME
    ),
    "Manifest": _object(size=_INT, sha1=_TEXT, sha256=_TEXT, chunk_size=_INT, chunks=_WORDS),
    "Upload": _object(
        id=_TEXT, filename=_TEXT, size={"type": ["integer", "null"]}, offset=_INT, stage=_TEXT, tags=_WORDS,
        partial=_YES, actor=_TEXT, created_at=_TIME, expires_at=_TIME, url=_TEXT,
    ),
    "Peer": _object(
        id=_TEXT, name=_TEXT, url=_TEXT, state=_TEXT, stage=_TEXT, version=_TEXT, healthy=_YES, joined_at=_TIME,
        last_seen=_TIME, last_error=_TEXT, failures=_INT, retry_at=_TIME, strikes=_INT, last_strike=_TEXT,
        quarantined_until=_TIME, clock_offset_s={"type": "number"},
    ),
    "Invite": _object(id=_TEXT, invite=_TEXT, expires_at=_TIME, created_at=_TIME, created_by=_TEXT, used_by=_TEXT),
    "Node": _object(
        id=_TEXT, name=_TEXT, url=_TEXT, stage=_TEXT, version=_TEXT, tags_take=_WORDS, tags_refuse=_WORDS,
        self=_YES, registered=_YES,
    ),
    "Transfer": _object(
        id=_TEXT, package=_TEXT, filename=_TEXT, sha256=_TEXT, size=_INT, state=_TEXT, bytes_done=_INT,
        chunks_done=_INT, chunks=_INT, rate={"type": "number"}, sources={"type": "array", "items": _ANY},
        error=_TEXT, attempts=_INT, started_at=_TIME, updated_at=_TIME,
    ),
    "Job": _object(
        id=_TEXT, queue=_TEXT, name=_TEXT, args=_ANY, state=_TEXT, priority=_INT, attempts=_INT, worker=_TEXT,
        error=_TEXT, run_at=_TIME, created_at=_TIME, updated_at=_TIME,
    ),
    "Event": _object(seq=_INT, type=_TEXT, at=_TIME, actor=_TEXT, subject=_TEXT, data=_ANY),
    "User": _object(name=_TEXT, role=_TEXT, must_change=_YES, created_at=_TIME, changed_at=_TIME),
    "Token": _object(
        token=_TEXT, id=_TEXT, name=_TEXT, account=_TEXT, role=_TEXT, created_at=_TIME, expires_at=_TIME,
        last_used=_TIME, last_used_from=_TEXT,
    ),
    "About": _object(
        name=_TEXT, node_id=_TEXT, url=_TEXT, download_url=_TEXT, version=_TEXT, stage=_TEXT, stages=_WORDS,
        tags_take=_WORDS, tags_refuse=_WORDS, account=_TEXT, role=_TEXT,
    ),
    "System": _object(
        version=_TEXT, uptime_s={"type": "number"}, disk=_ANY, memory=_ANY, python=_TEXT, database=_TEXT, counts=_ANY
    ),
    "Problem": _object(
        type=_TEXT, title=_TEXT, status=_INT, code=_TEXT, detail=_TEXT, request_id=_TEXT
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call of the admin API."""

    method: str
    path: str
    summary: str
    role: str = "viewer"
    answer: str = ""  #: a schema's name, "[Name]" for a page of them, "" for nothing
    status: int = 200
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    binary: bool = False  #: the body is the file
    parameters: tuple[str, ...] = ()  #: further query parameters
    headers: tuple[str, ...] = ()  #: request headers


_UPLOAD = ("stage", "tags", "notes", "replace", "sha1", "sha256")

OPERATIONS = [
    Operation(method="get", path="/about", summary="Who this node is, and who asks", answer="About"),
    Operation(method="get", path="/system", summary="Disk, memory, uptime, version", answer="System"),
    Operation(method="get", path="/events", summary="What happened at this node", answer="[Event]",
              query=models.EventsQuery),
    Operation(method="get", path="/packages", summary="Packages", answer="[Package]", query=models.PackagesQuery),
    Operation(method="get", path="/packages/{package}", summary="One package with its replicas across the network",
              answer="Package"),
    Operation(method="put", path="/packages/{package}", summary="Put a file in under this name", role="operator",
              answer="Package", status=201, binary=True, parameters=_UPLOAD,
              headers=("Content-Digest", "Repr-Digest")),
    Operation(method="patch", path="/packages/{package}", summary="Change stage, tags, notes or metadata",
              role="operator", answer="Package", body=models.PackageChange),
    Operation(method="delete", path="/packages/{package}", summary="Withdraw from every node", role="operator",
              answer="Package"),
    Operation(method="get", path="/packages/{package}/manifest", summary="The SHA-1 of every chunk",
              answer="Manifest"),
    Operation(method="post", path="/packages/{package}/verify", summary="Check the file here against its hashes",
              role="operator", answer="Job", status=202),
    Operation(method="get", path="/uploads", summary="Uploads that are not complete", answer="[Upload]"),
    Operation(method="post", path="/uploads", summary="Open an upload (tus 1.0.0)", role="operator", status=201,
              binary=True, headers=("Tus-Resumable", "Upload-Length", "Upload-Metadata", "Upload-Concat",
                                    "Upload-Checksum")),
    Operation(method="options", path="/uploads", summary="What the tus server can do", status=204),
    Operation(method="get", path="/uploads/{upload}", summary="How much of an upload is here", answer="Upload"),
    Operation(method="head", path="/uploads/{upload}", summary="How much of an upload is here (tus)",
              role="operator", headers=("Tus-Resumable",)),
    Operation(method="patch", path="/uploads/{upload}", summary="Continue an upload (tus)", role="operator",
              status=204, binary=True, headers=("Tus-Resumable", "Upload-Offset", "Upload-Checksum")),
    Operation(method="delete", path="/uploads/{upload}", summary="End an upload (tus)", role="operator", status=204,
              headers=("Tus-Resumable",)),
    Operation(method="get", path="/peers", summary="Registered peers and their health", answer="[Peer]"),
    Operation(method="get", path="/peers/invites", summary="Invites", role="admin", answer="[Invite]"),
    Operation(method="post", path="/peers/invites", summary="Make a one-time invite", role="admin", answer="Invite",
              status=201, body=models.InviteInput),
    Operation(method="delete", path="/peers/invites/{invite}", summary="Revoke an invite", role="admin", status=204),
    Operation(method="post", path="/peers/join", summary="Register with the node that made an invite", role="admin",
              answer="Peer", status=201, body=models.JoinInput),
    Operation(method="get", path="/peers/{peer}", summary="One peer", answer="Peer"),
    Operation(method="delete", path="/peers/{peer}", summary="End a registration", role="admin", status=204),
    Operation(method="get", path="/nodes", summary="Every node of the network", answer="[Node]"),
    Operation(method="get", path="/transfers", summary="What is brought here", answer="[Transfer]",
              query=models.TransfersQuery),
    Operation(method="get", path="/transfers/{transfer}", summary="One transfer", answer="Transfer"),
    Operation(method="post", path="/transfers/{transfer}/{action}", summary="`retry` or `cancel` a transfer",
              role="operator", answer="Transfer"),
    Operation(method="get", path="/jobs", summary="Jobs", answer="[Job]", query=models.JobsQuery),
    Operation(method="get", path="/jobs/{job}", summary="One job", answer="Job"),
    Operation(method="post", path="/jobs/{job}/{action}", summary="`retry` or `cancel` a job", role="operator",
              answer="Job"),
    Operation(method="get", path="/users", summary="Accounts", role="admin", answer="[User]"),
    Operation(method="post", path="/users", summary="Make an account", role="admin", answer="User", status=201,
              body=models.UserInput),
    Operation(method="patch", path="/users/{user}", summary="Change a password or a role", answer="User",
              body=models.UserChange),
    Operation(method="delete", path="/users/{user}", summary="Delete an account", role="admin", status=204),
    Operation(method="get", path="/tokens", summary="API tokens", answer="[Token]"),
    Operation(method="post", path="/tokens", summary="Make an API token", answer="Token", status=201,
              body=models.TokenInput),
    Operation(method="delete", path="/tokens/{token}", summary="Revoke an API token", status=204),
    Operation(method="get", path="/openapi.json", summary="This description"),
    Operation(method="get", path="/docs", summary="This description as a page"),
]  # fmt: skip


def document() -> dict[str, Any]:
    """The whole description."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault("/api/v1" + operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Open Distribution Server",
            "version": __version__,
            "summary": "The admin API of a node",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": _NAMED,
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "token": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": [{"basic": []}, {"token": []}],
    }


def _operation(operation: Operation) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _TEXT}
        for name in (part[1:-1] for part in operation.path.split("/") if part.startswith("{"))
    ]
    parameters += [{"name": name, "in": "query", "schema": _TEXT} for name in operation.parameters]
    parameters += [{"name": name, "in": "header", "schema": _TEXT} for name in operation.headers]
    if operation.query is not None:
        for name, schema in _schema(operation.query)["properties"].items():
            parameters.append(
                {"name": name, "in": "query", "description": schema.pop("description", ""), "schema": schema}
            )
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    good: dict[str, Any] = {"description": "Done"}
    if operation.answer:
        good["content"] = {"application/json": {"schema": _answer(operation.answer)}}
    found: dict[str, Any] = {
        "summary": operation.summary,
        "description": f"Needs the role {operation.role}.",
        "operationId": operation.method + operation.path.replace("/", "_").replace("{", "").replace("}", ""),
        "parameters": parameters,
        "responses": {
            str(operation.status): good,
            "default": {"description": "An error", "content": problem},
        },
    }
    if operation.body is not None:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _schema(operation.body)}},
        }
    elif operation.binary:
        found["requestBody"] = {"content": {"application/octet-stream": {}}}
    return found


def _answer(name: str) -> dict[str, Any]:
    if not name.startswith("["):
        return {"$ref": f"#/components/schemas/{name}"}
    items = {"type": "array", "items": {"$ref": f"#/components/schemas/{name[1:-1]}"}}
    return _object(items=items, next={"type": ["string", "integer", "null"]})


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    for part in (schema, *schema.get("properties", {}).values()):
        part.pop("title", None)
    return schema


class OpenApiHandler(BaseHandler):
    """`/api/v1/openapi.json`."""

    async def get(self) -> None:
        """The description."""
        self.write_json(document())


class DocsHandler(BaseHandler):
    """`/api/v1/docs`."""

    async def get(self) -> None:
        """The page; one style element, no script."""
        templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True
        )
        self.set_header(
            "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
        )
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(templates.get_template("docs.html").render(document=document()))
