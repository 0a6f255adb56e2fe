"""The description of the admin API in OpenAPI 3.1, made from `operations` and `schemas`, and a page to read it."""

from pathlib import Path
from typing import Any

import jinja2
from pydantic import BaseModel

from appliance import __version__
from appliance.domain.errors import ApplianceError

from .base import BaseHandler
from .errors import status_of
from .operations import OPERATIONS, Errors, Operation
from .schemas import INT, SCHEMAS, TEXT, YES, Schema, array, object_of, ref

_PATH: dict[str, Schema] = {"action": {"type": "string", "enum": ["retry", "cancel"]}}
_QUERY: dict[str, Schema] = {"replace": YES, "allow_empty": YES}
_MEANING = {
    "package": "Its id or its file name; to put a file in, the name.",
    "peer": "Its node id or its name.",
    "user": "The account's name.",
}


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
            "schemas": SCHEMAS,
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "token": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": [{"basic": []}, {"token": []}],
    }


def _operation(operation: Operation) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done"}
    if operation.answer:
        good["content"] = {"application/json": {"schema": _answer(operation.answer)}}
    elif operation.media:
        good["content"] = {operation.media: {}}
    found: dict[str, Any] = {
        "summary": operation.summary,
        "description": f"Needs the role {operation.role}.",
        "operationId": operation.method + operation.path.replace("/", "_").replace("{", "").replace("}", ""),
        "parameters": _parameters(operation),
        "responses": {
            str(operation.status): good,
            **_failures(operation.failures()),
            "default": {"description": "Another error.", "content": _problem()},
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


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    named = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "description": _MEANING.get(name, "")}
        | {"schema": _PATH.get(name, TEXT)}
        for name in named
    ]
    found += [
        {"name": name, "in": "query", "schema": _QUERY.get(name, TEXT)} for name in operation.parameters
    ]
    found += [{"name": name, "in": "header", "schema": TEXT} for name in operation.headers]
    if operation.query is not None:
        for name, schema in _schema(operation.query)["properties"].items():
            description = schema.pop("description", "")
            found.append({"name": name, "in": "query", "description": description, "schema": schema})
    return found


def _failures(errors: Errors) -> dict[str, Any]:
    """Error answers by status, each with the codes that it may carry and what they mean."""
    by_status: dict[int, list[type[ApplianceError]]] = {}
    for cls in errors:
        by_status.setdefault(status_of(cls()), []).append(cls)
    return {
        str(status): {
            "description": " ".join(f"`{cls.code}`: {cls().message}" for cls in classes),
            "content": _problem(),
        }
        for status, classes in sorted(by_status.items())
    }


def _problem() -> dict[str, Any]:
    return {"application/problem+json": {"schema": ref("Problem")}}


def _answer(name: str) -> Schema:
    if not name.startswith("["):
        return ref(name)
    page = object_of({"items": array(ref(name[1:-1])), "next": {"type": ["string", "integer", "null"]}})
    page["properties"]["total"] = {**INT, "description": "On all pages together, where that is known."}
    return page


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
