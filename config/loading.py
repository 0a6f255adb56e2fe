"""Reads the settings: flags come before the environment, that before the file, and that before the defaults.

Every fault is reported with the key, the reason and where it stands, and all of them at once. Values in the file are
taken as they are written, so that `name: on` is a name and `08` is not an octal number; their types come from the
settings alone.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .plain import plain
from .settings import SECRETS, Settings

MAX_FILE = 1024 * 1024  #: characters
PLACES = (Path("ods.yaml"), Path("/etc/ods/ods.yaml"))  #: where a file is looked for if none is named
_MAX_DEPTH = 20
_PASSWORD_IN_URL = re.compile(r"(//[^:/@]*:).*@|(password=)[^&]*", re.IGNORECASE | re.DOTALL)
_NULL = "tag:yaml.org,2002:null"
_TAGS = {
    f"tag:yaml.org,2002:{name}"
    for name in ("null", "bool", "int", "float", "str", "timestamp", "seq", "value")
}
# Kubernetes tells every container of a service "ods-node" in variables such as ODS_NODE_SERVICE_HOST.
_OF_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT_\d+_(TCP|UDP|SCTP)(_|$)")


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

    def value(self, path: tuple[str, ...]) -> Any:
        node: Any = self.tree
        for name in path:
            node = node.get(name) if isinstance(node, dict) else None
        return node


def find_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file to read if none is named: `ODS_CONFIG`, else `ods.yaml` here, else `/etc/ods/ods.yaml`, else none."""
    if environment.get("ODS_CONFIG"):
        return Path(environment["ODS_CONFIG"])
    return next((path for path in PLACES if path.is_file()), None)


def load(
    path: Path | None,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] | None = None,
    *,
    files: bool = False,
) -> Settings:
    """Read the settings.

    Args:
        path: The YAML file, or None for none.
        environment: Variables `ODS_<SECTION>_<FIELD>`; empty ones count as not given.
        flags: Values from the command line by dotted key; None values count as not given.
        files: Whether the files that the settings name have to be there.

    Raises:
        SettingsFault: They cannot be used.
    """
    found = _Found()
    faults: list[str] = []
    if path is not None:
        _read_file(path, found, faults)
    _read_environment(environment, found, faults)
    for key, value in (flags or {}).items():
        if value is not None:
            found.put(tuple(key.split(".")), value, f"--{key.rsplit('.', 1)[-1].replace('_', '-')}")
    try:
        settings = Settings.model_validate(found.tree)
    except ValidationError as exc:
        faults += [_explain(item, found) for item in exc.errors()]
        raise SettingsFault(faults) from exc
    if files:
        faults += [_lacking(key, name, found) for key, name in _files(settings) if not Path(name).is_file()]
    if faults:
        raise SettingsFault(faults)
    return settings


def _files(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """The files that settings name, by key."""
    tls = settings.http.tls
    for key, name in (
        ("http.tls.certificate", tls.certificate),
        ("http.tls.key", tls.key),
        ("http.tls.ca_file", tls.ca_file),
        ("directory.ca_file", settings.directory.ca_file),
        ("mail.ca_file", settings.mail.ca_file),
    ):
        if name:
            yield tuple(key.split(".")), name


def _lacking(path: tuple[str, ...], name: str, found: _Found) -> str:
    return f"{found.where[path]}: {'.'.join(path)}: there is no file {name}"


def _read_environment(environment: Mapping[str, str], found: _Found, faults: list[str]) -> None:
    variables = {"ODS_" + "_".join(path).upper(): (path, info) for path, info in _leaves(Settings)}
    sections = tuple(f"ODS_{name.upper()}_" for name in Settings.model_fields if name != "data_dir")
    for variable, text in sorted(environment.items()):
        if variable in variables:
            path, info = variables[variable]
            many = getattr(info.annotation, "__origin__", None) is tuple
            value: Any = [part.strip() for part in text.split(",") if part.strip()] if many else text
            if text.strip():
                found.put(path, value, f"environment {variable}")
        elif variable.startswith(sections) and not _OF_KUBERNETES.search(variable) and "://" not in text:
            near = difflib.get_close_matches(variable, variables, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            faults.append(f"environment {variable}: there is no such setting{hint}")


def _explain(item: Any, found: _Found) -> str:
    path = tuple(str(part) for part in item["loc"])
    reason = plain(item)
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _names(path[:-1]), 1)
        reason = "there is no such setting" + (f"; did you mean {near[0]}?" if near else "")
    elif item["type"] == "model_type":
        reason = "it is a section; write its settings indented below it"
    elif item["type"] == "tuple_type":
        reason = "it is a list, such as [a, b]"
    # A rule of a section names the setting first: "stage: there is no ...".
    name, colon, rest = reason.partition(": ")
    if colon and re.fullmatch(r"[a-z_.]+", name):
        path, reason = (*path, *name.split(".")), rest
    value = found.value(path)
    if isinstance(value, str | int | float) and value != "" and ".".join(path) not in SECRETS:
        shown = value if len(str(value)) <= 60 else f"{str(value)[:60]}..."
        reason = f"{reason} (it is {shown!r})" if item["type"] != "extra_forbidden" else reason
    where = next(
        (found.where[path[:end]] for end in range(len(path), 0, -1) if path[:end] in found.where), ""
    )
    if not where:
        where = next((place for key, place in found.where.items() if key[: len(path)] == path), "")
    if not where:  # a default that does not go with another setting, which the reason names
        named = (tuple(word.split(".")) for word in re.findall(r"[a-z_]+(?:\.[a-z_]+)+", reason))
        where = next((found.where[other] for other in named if other in found.where), "")
    key = ".".join(path) or "settings"
    return f"{where}: {key}: {reason}" if where else f"{key}: {reason}"


def _names(path: tuple[str, ...]) -> list[str]:
    """What there is in the section at `path`."""
    model: type[BaseModel] = Settings
    for name in path:
        info = model.model_fields.get(name)
        if (
            info is None
            or not isinstance(info.annotation, type)
            or not issubclass(info.annotation, BaseModel)
        ):
            return []
        model = info.annotation
    return list(model.model_fields)


def _leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _leaves(kind, (*path, name))
        else:
            yield (*path, name), info


def _read_file(path: Path, found: _Found, faults: list[str]) -> None:
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(MAX_FILE + 1)
    except OSError as exc:
        faults.append(f"{path}: it cannot be read: {exc.strerror or exc}")
        return
    except UnicodeDecodeError:
        faults.append(f"{path}: it is not text in UTF-8")
        return
    if len(text) > MAX_FILE:
        faults.append(f"{path}: it is larger than {MAX_FILE} characters")
        return
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            mark = event.start_mark
            place = f"{path}:{mark.line + 1 if mark else 1}"
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                faults.append(f"{place}: references (*name) are not allowed here")
                return
            if depth > _MAX_DEPTH:
                faults.append(f"{place}: it is nested too deeply")
                return
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        faults.append(
            f"{path}:{mark.line + 1 if mark else 1}: it is not valid YAML: {exc.problem or exc.context}"
        )
        return
    except yaml.YAMLError as exc:
        faults.append(f"{path}: it is not valid YAML: {str(exc).splitlines()[0]}")
        return
    if isinstance(root, yaml.MappingNode):
        _walk(root, (), path, found, faults)
    elif root is not None and root.tag != _NULL:
        faults.append(f"{path}:{root.start_mark.line + 1}: the file is not a list of settings (key: value)")


def _walk(node: yaml.MappingNode, at: tuple[str, ...], path: Path, found: _Found, faults: list[str]) -> None:
    seen: set[str] = set()
    for key, value in node.value:
        place = f"{path}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            faults.append(f"{place}: a key is a word")
            continue
        here = (*at, key.value)
        if key.value in seen:
            faults.append(f"{place}: {'.'.join(here)}: it is set twice")
        seen.add(key.value)
        if isinstance(value, yaml.MappingNode):
            found.where[here] = place
            _walk(value, here, path, found, faults)
        elif value.tag not in _TAGS:
            faults.append(f"{place}: {'.'.join(here)}: the type {value.tag} is not allowed here")
        elif isinstance(value, yaml.SequenceNode):
            if all(isinstance(item, yaml.ScalarNode) and item.tag != _NULL for item in value.value):
                found.put(here, [item.value for item in value.value], place)
            else:
                faults.append(f"{place}: {'.'.join(here)}: it is a list of words")
        elif value.tag != _NULL:
            found.put(here, value.value, place)


def as_dict(settings: Settings, *, secrets: bool = False) -> dict[str, Any]:
    """The settings as plain values; secrets are masked unless asked for."""
    data = settings.model_dump(mode="json")
    if not secrets:
        for key in SECRETS:
            section, name = key.split(".")
            value = data[section][name]
            if value:
                masked = _PASSWORD_IN_URL.sub(_masked, value)
                data[section][name] = masked if "url" in name else "***"
    return data


def _masked(match: re.Match[str]) -> str:
    return f"{match[1]}***@" if match[1] else f"{match[2]}***"


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A setting as a person reads it."""

    key: str  #: http.port
    value: Any  #: a plain value; secrets are masked
    default: bool  #: whether it is the default
    description: str
    environment: str  #: the variable that sets it


def described(settings: Settings) -> list[Described]:
    """Every setting with its value and what it means."""
    return _described(Settings, as_dict(settings), as_dict(Settings()), ())


def _described(
    model: type[BaseModel], values: dict[str, Any], defaults: dict[str, Any], place: tuple[str, ...]
) -> list[Described]:
    found: list[Described] = []
    for name, info in model.model_fields.items():
        if isinstance(values[name], dict) and isinstance(info.annotation, type):
            found += _described(info.annotation, values[name], defaults[name], (*place, name))
            continue
        found.append(
            Described(
                key=".".join((*place, name)),
                value=values[name],
                default=values[name] == defaults[name],
                description=info.description or "",
                environment="_".join(("ODS", *place, name)).upper(),
            )
        )
    return found


def render_default() -> str:
    """The commented default file."""
    lines = [
        "# Settings of an Open Distribution Server node. Every value below is the default.",
        "# Each can also be given as an environment variable: http.port is ODS_HTTP_PORT; a list is a,b,c.",
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
            lines += [
                "",
                f"{pad}# {info.description}",
                f"{pad}{name}:",
                *_render(type(value), value, depth + 1),
            ]
            continue
        lines += [f"{pad}# {line}" for line in _wrapped(info.description or "", 100 - len(pad))]
        shown = info.default if isinstance(info.default, str) else value
        text = yaml.safe_dump(
            list(shown) if isinstance(shown, tuple) else shown, default_flow_style=True, width=1000
        )
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
