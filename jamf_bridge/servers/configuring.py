"""From what an admin sends to a configuration that can be used: merging, checking, and messages that name the field."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from appliance.domain.errors import InvalidInput

from ..driver import DriverFactory
from ..mirror.templates import NODE_SAMPLE, PACKAGE_SAMPLE, check_template
from .config import ServerConfig
from .registry import Registry
from .secret_fields import MASK, Place, secret_places

SECTIONS = ("settings", "intake", "mirror", "points", "webhooks")

M = TypeVar("M", bound=BaseModel)
_ABSENT: Final = object()


def merged(
    current: Mapping[str, Any], fields: Mapping[str, Any], factory: DriverFactory | None
) -> dict[str, Any]:
    """A configuration with some fields changed.

    Sections are merged field by field; what is absent stays, and null goes back to the default. A secret that is
    absent, empty or the mask stays as it is; null removes it.

    Args:
        current: The whole configuration, secrets in clear; {} for a new server.
        fields: What was sent.
        factory: Of the server's kind.

    Raises:
        InvalidInput: A section is not an object.
    """
    whole = copy.deepcopy(dict(current))
    for name, value in fields.items():
        if name in SECTIONS and value is not None:
            if not isinstance(value, Mapping):
                raise _fault(name, "it is not an object")
            whole[name] = _overlaid(whole.get(name, {}), value)
        else:
            _set(whole, name, value)
    for place in secret_places(factory):
        _keep_secret(whole, place, sent=_at(fields, place), held=_at(current, place))
    return whole


def _keep_secret(whole: dict[str, Any], place: Place, *, sent: Any, held: Any) -> None:
    """Put back what is kept of a secret, where nothing new was sent."""
    parent = _at(whole, place[:-1])
    if not isinstance(parent, dict) or not (sent is _ABSENT or sent in ("", MASK)):
        return
    _set(parent, place[-1], None if held is _ABSENT else held)


def _overlaid(section: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(section)
    for name, value in changes.items():
        _set(found, name, value)
    return found


def _set(target: dict[str, Any], name: str, value: Any) -> None:
    if value is None:
        target.pop(name, None)
    else:
        target[name] = copy.deepcopy(value)


def _at(config: Any, place: Place) -> Any:
    for part in place:
        config = config.get(part, _ABSENT) if isinstance(config, Mapping) else _ABSENT
    return config


def checked(whole: Mapping[str, Any], registry: Registry, *, stages: Sequence[str] = ()) -> ServerConfig:
    """The configuration, with the driver's own settings checked by the driver's model.

    Args:
        whole: All fields, secrets in clear.
        registry: The drivers.
        stages: The network's; empty if they are not to be checked.

    Raises:
        InvalidInput: It cannot be used; the message names each field and says why.
    """
    config = _validated(ServerConfig, whole, "")
    if not config.name.strip() or not config.name.isprintable():
        raise _fault("name", "it is empty, or has characters that cannot be shown")
    factory = registry.factory(config.kind)
    if factory is None:
        known = ", ".join(registry.kinds()) or "none"
        raise _fault("kind", f'there is no driver for "{config.kind}"; installed are: {known}')
    driver_settings(factory, config)
    _check_stages(config, stages)
    _check_templates(config)
    for url in (config.webhooks.register_at, *config.points.urls.values()):
        if url and not _is_url(url):
            name = "webhooks.register_at" if url == config.webhooks.register_at else "points.urls"
            raise _fault(name, f'"{url}" is not a URL such as https://ods.example.com')
    return config


def _check_stages(config: ServerConfig, stages: Sequence[str]) -> None:
    for name, wanted in (("mirror.stages", config.mirror.stages), ("intake.stage", (config.intake.stage,))):
        unknown = sorted({stage for stage in wanted if stage} - set(stages))
        if stages and unknown:
            raise _fault(name, f"there is no stage {', '.join(unknown)}; there are: {', '.join(stages)}")


def _check_templates(config: ServerConfig) -> None:
    mirror = config.mirror
    for name, text, sample in (
        ("mirror.name", mirror.name, PACKAGE_SAMPLE),
        ("mirror.category", mirror.category, PACKAGE_SAMPLE),
        ("mirror.notes", mirror.notes, PACKAGE_SAMPLE),
        ("points.name", config.points.name, NODE_SAMPLE),
    ):
        try:
            check_template(text, sample)
        except InvalidInput as exc:
            raise _fault(name, exc.message.rstrip(".")) from exc


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in {"https", "http"}
            and bool(parts.hostname)
            and not parts.query
            and not parts.fragment
        )
    except ValueError:
        return False


def driver_settings(factory: DriverFactory, config: ServerConfig) -> BaseModel:
    """The driver's own settings as its model.

    Raises:
        InvalidInput: They cannot be used; the message names each field and says why, and repeats no value.
    """
    return _validated(factory.Settings, config.settings, "settings")


def _validated(model: type[M], data: Any, section: str) -> M:
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        faults = {}
        for fault in exc.errors(include_input=False, include_url=False):
            place, reason = [*map(str, fault["loc"])], fault["msg"].removeprefix("Value error, ")
            field, colon, rest = reason.partition(": ")
            if not place and colon and field in model.model_fields:  # a check of several fields names one
                place, reason = [field], rest
            faults[".".join(filter(None, (section, *place))) or "body"] = reason
        raise InvalidInput(
            "; ".join(f"{name}: {reason}" for name, reason in faults.items()), fields=faults
        ) from None


def _fault(name: str, reason: str) -> InvalidInput:
    return InvalidInput(f"{name}: {reason}.", fields={name: reason})
