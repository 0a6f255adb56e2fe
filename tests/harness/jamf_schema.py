"""Holds every request that was sent to the fake Jamf Pro against the published API schemas.

The schemas are Jamf's and are not part of this project: the folder that holds `pro-api-slice.json` and
`classic-api-slice.json` (OpenAPI 3) comes from ODS_JAMF_SCHEMAS; without it nothing is checked.
"""

import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from jsonschema import Draft202012Validator

FOLDER = os.environ.get("ODS_JAMF_SCHEMAS", "")
#: What servers take and the published Classic schema does not name: authentication by header (probed on live servers by
#: the Terraform provider of Jamf-Concepts), and two elements of distribution points that its own examples use.
_UNPUBLISHED = {("webhook", "header"), ("webhook", "authentication_type")}
_OURS = ("/control/", "/cloudfront/")
_LEGACY = {"/api/oauth/token"}


class Schemas:
    """The two published schemas."""

    def __init__(self, folder: Path) -> None:
        self._pro = json.loads((folder / "pro-api-slice.json").read_text())
        self._classic = json.loads((folder / "classic-api-slice.json").read_text())

    def faults(self, requests: Iterable[Mapping[str, Any]]) -> list[str]:
        """What is wrong with requests of a journal: a sentence each, none twice."""
        found: dict[str, None] = {}
        for request in requests:
            if request["path"].startswith(_OURS) or request["path"] in _LEGACY:
                continue
            classic = request["path"].startswith("/JSSResource/")
            for fault in self._classic_faults(request) if classic else self._pro_faults(request):
                found[f"{request['method']} {request['path']}: {fault}"] = None
        return list(found)

    def _pro_faults(self, request: Mapping[str, Any]) -> list[str]:
        operation, parameters = self._operation(
            self._pro, request["path"].removeprefix("/api"), request["method"]
        )
        if operation is None:
            return ["there is no such call"]
        faults = []
        known = {self._resolved(item)["name"]: self._resolved(item) for item in parameters}
        for name, value in parse_qsl(request["query"], keep_blank_values=True):
            schema = known.get(name, {}).get("schema")
            if schema is None:
                faults.append(f"there is no parameter {name}")
            elif schema.get("type") == "integer" and not value.lstrip("-").isdigit():
                faults.append(f"{name} is no integer: {value}")
        content = self._resolved(operation.get("requestBody", {})).get("content", {})
        kind = request["type"].partition(";")[0]
        if request["body"] and kind not in content:
            faults.append(f"a body of the type {kind} is not taken")
        elif "json" in kind and request["body"]:
            faults += self._body_faults(json.loads(request["body"]), content[kind]["schema"])
        elif self._resolved(operation.get("requestBody", {})).get("required") and not content.keys() & {kind}:
            faults.append("the body is missing")
        return faults

    def _body_faults(self, body: Any, schema: Mapping[str, Any]) -> list[str]:
        resolved = self._resolved(schema)
        validator = Draft202012Validator({**resolved, "components": self._pro["components"]})
        faults = [
            f"{'/'.join(map(str, error.path))}: {error.message[:200]}"
            for error in validator.iter_errors(body)
        ]
        properties = resolved.get("properties", {})
        if isinstance(body, dict) and properties:
            faults += [f"there is no field {name}" for name in body if name not in properties]
            faults += [f"{name} is read-only" for name in body if properties.get(name, {}).get("readOnly")]
        return faults

    def _classic_faults(self, request: Mapping[str, Any]) -> list[str]:
        path = request["path"].replace("/JSSResource/", "/tenant/{tenantId}/", 1)
        operation, _ = self._operation(self._classic, path, request["method"])
        if operation is None:
            return ["there is no such call"]
        if not request["body"]:
            return []
        root = ET.fromstring(request["body"])
        schema = self._classic["components"]["schemas"].get(root.tag)
        if schema is None:
            return [f"there is no element {root.tag}"]
        faults = []
        for element in root:
            declared = schema["properties"].get(element.tag)
            if (root.tag, element.tag) in _UNPUBLISHED:
                continue
            if declared is None:
                faults.append(f"there is no element {element.tag} in {root.tag}")
            elif "enum" in declared and element.text not in declared["enum"]:
                faults.append(f"{element.tag} is {element.text}, not one of {declared['enum']}")
            elif declared.get("type") == "integer" and not (element.text or "").lstrip("-").isdigit():
                faults.append(f"{element.tag} is no integer: {element.text}")
        return faults

    def _operation(
        self, schema: Mapping[str, Any], path: str, method: str
    ) -> tuple[Mapping[str, Any] | None, list[Mapping[str, Any]]]:
        for template, item in sorted(schema["paths"].items(), key=lambda pair: pair[0].count("{")):
            pattern = re.sub(r"\\{[^}]+\\}", "[^/]+", re.escape(template))
            if re.fullmatch(pattern, path.replace("{tenantId}", "x")) and method.lower() in item:
                operation = item[method.lower()]
                return operation, [*item.get("parameters", []), *operation.get("parameters", [])]
        return None, []

    def _resolved(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in item:
            found: Any = self._pro
            for part in item["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            item = found
        return item


def check_requests(requests: Iterable[Mapping[str, Any]]) -> None:
    """Fail if a request is not valid against the published schemas; nothing without them.

    Raises:
        AssertionError: With every fault.
    """
    if FOLDER:
        assert Schemas(Path(FOLDER)).faults(requests) == []
