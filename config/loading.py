"""Reads the settings: flags come before the environment, that before the file, and that before the defaults.

Every fault is reported with the key, the reason and where it stands, and all of them at once.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .settings import SECRETS, Settings

MAX_FILE = 1024 * 1024
_PASSWORD_IN_URL = re.compile(r"(//[^:/@]*:)[^@]*@")


class SettingsFault(Exception):
    """The settings cannot be used; the message has one line for each fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(slots=True)
class _Found:
    """Values by their path, and where each was found."""

    tree: dict[str, Any] = field(default_factory=dict)
    where: dict[tuple[str, ...], str] = field(default_factory=dict)

    def put(self, path: tuple[str, ...], value: Any, where: str) -> None:
        node = self.tree
        for name in path[:-1]:
            inner = node.setdefault(name, {})
            if not isinstance(inner, dict):
                inner = node[name] = {}
            node = inner
        node[path[-1]] = value
        self.where[path] = where


def load(path: Path | None, environment: Mapping[str, str] = os.environ, flags: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings.

    Args:
        path: The YAML file, or None for none.
        environment: Variables `ODS_<SECTION>_<FIELD>`.
        flags: Values from the command line by dotted key; None values count as not given.

    Raises:
        SettingsFault: They cannot be used.
    """
    found = _Found()
    faults: list[str] = []
    if path is not None:
        _read_file(path, found, faults)
    fields = dict(_leaves(Settings))
    for name, info in fields.items():
        variable = "ODS_" + "_".join(name).upper()
        if variable in environment:
            text = environment[variable]
            many = getattr(info.annotation, "__origin__", None) is tuple
            value: Any = [part.strip() for part in text.split(",") if part.strip()] if many else text
            found.put(name, value, f"environment {variable}")
    for key, value in (flags or {}).items():
        if value is not None:
            found.put(tuple(key.split(".")), value, f"--{key.rsplit('.', 1)[-1].replace('_', '-')}")
    if faults:
        raise SettingsFault(faults)
    try:
        return Settings.model_validate(found.tree)
    except ValidationError as exc:
        raise SettingsFault([_explain(item, found) for item in exc.errors()]) from exc


def _explain(item: Any, found: _Found) -> str:
    path = tuple(str(part) for part in item["loc"])
    reason = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        reason = "there is no such setting"
    where = next((found.where[path[:end]] for end in range(len(path), 0, -1) if path[:end] in found.where), "")
    if not where:
        where = next((place for key, place in found.where.items() if key[: len(path)] == path), "")
    return f"{where}: {'.'.join(path) or 'settings'}: {reason}" if where else f"{'.'.join(path)}: {reason}"


def _leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _leaves(kind, (*path, name))
        else:
            yield (*path, name), info


def _read_file(path: Path, found: _Found, faults: list[str]) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        faults.append(f"{path}: it cannot be read: {getattr(exc, 'strerror', None) or exc}")
        return
    if len(text) > MAX_FILE:
        faults.append(f"{path}: it is larger than {MAX_FILE} bytes")
        return
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            faults.append(f"{path}: references (*name) are not allowed here")
            return
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _walk(root, (), path, found, faults)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 0
        faults.append(f"{path}:{line}: it is not valid YAML: {exc.problem}")
    except (yaml.YAMLError, RecursionError) as exc:
        faults.append(f"{path}: it is not valid YAML: {exc}")


def _walk(node: yaml.Node, at: tuple[str, ...], path: Path, found: _Found, faults: list[str]) -> None:
    place = f"{path}:{node.start_mark.line + 1}"
    if not isinstance(node, yaml.MappingNode):
        if not at:
            faults.append(f"{place}: the file is not a list of settings (key: value)")
            return
        loader = yaml.SafeLoader("")
        value = loader.construct_object(node, deep=True)  # type: ignore[no-untyped-call]
        if value is not None:
            found.put(at, value, place)
        return
    seen: set[str] = set()
    for key, value_node in node.value:
        name = str(key.value)
        if name in seen:
            faults.append(f"{path}:{key.start_mark.line + 1}: {'.'.join((*at, name))}: it is set twice")
        seen.add(name)
        if isinstance(value_node, yaml.MappingNode):
            found.where[(*at, name)] = f"{path}:{key.start_mark.line + 1}"
        _walk(value_node, (*at, name), path, found, faults)


def as_dict(settings: Settings, *, secrets: bool = False) -> dict[str, Any]:
    """The settings as plain values; secrets are masked unless asked for."""
    data = settings.model_dump(mode="json")
    if not secrets:
        for key in SECRETS:
            section, name = key.split(".")
            value = data[section][name]
            if value:
                masked = _PASSWORD_IN_URL.sub(r"\1***@", value)
                data[section][name] = masked if "url" in name else "***"
    return data


def render_default() -> str:
    """The commented default file."""
    lines = [
        "# Settings of an Open Distribution Server node. Every value below is the default.",
        "# Each can also be given as an environment variable: http.port is ODS_HTTP_PORT.",
        "# `ods config check --config FILE` says what is wrong with a file.",
        "",
    ]
    lines += _render(Settings, Settings(), 0)
    return "\n".join(lines).rstrip() + "\n"


def _render(model: type[BaseModel], values: BaseModel, depth: int) -> list[str]:
    pad = "  " * depth
    lines: list[str] = []
    for name, info in model.model_fields.items():
        value = getattr(values, name)
        if isinstance(value, BaseModel):
            lines += ["", f"{pad}# {info.description}", f"{pad}{name}:", *_render(type(value), value, depth + 1)]
            continue
        lines += [f"{pad}# {line}" for line in _wrapped(info.description or "", 100 - len(pad))]
        shown = info.default if isinstance(info.default, str) else value
        text = yaml.safe_dump(list(shown) if isinstance(shown, tuple) else shown, default_flow_style=True, width=1000)
        lines.append(f"{pad}{name}: {text.splitlines()[0]}")
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line]
