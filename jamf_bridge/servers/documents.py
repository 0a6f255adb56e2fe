"""How a configured MDM server is kept in the store, and how it is read back.

    _id            eight random hex digits: stable, never used again
    revision       counts the changes of the configuration, from 1
    config         the configuration without its secrets
    sealed         dotted name of a secret's place -> its JSON, encrypted; "hook" is what proves a webhook
    state, reason  connected, unreachable or attention, and why
    health         how it is doing: times, counts, the account name of our own requests, a pause
    asked          what the next sync must do beside the usual, until one did it: "probe", "verify"
    asks           counts how often something was asked for

A document that cannot be understood, because its plug-in or its key is gone, becomes a server that needs attention:
it must not stop the others from being read.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from appliance.domain.errors import InvalidSettings
from appliance.domain.moment import too_early
from appliance.service.journal import SYSTEM
from appliance.service.secrets import SecretBox
from appliance.store.ports import Doc

from .config import ServerConfig
from .registry import Registry
from .secret_fields import put_in, secret_places, take_out
from .server import Server, ServerState

PAUSE_MS = 10 * 60_000  #: after the MDM said that it goes down

HOOK = "hook"  #: the name of the webhooks' secret among the sealed


def server_of(doc: Doc, *, box: SecretBox, registry: Registry, now: int) -> Server:
    """The server of a document, in the state that it is in now.

    Args:
        doc: As stored.
        box: Opens its secrets.
        registry: The drivers that are installed.
        now: UTC milliseconds.
    """
    secrets, fault = _opened(doc["sealed"], box)
    hook_secret = str(secrets.pop(HOOK, ""))
    try:
        config = ServerConfig.model_validate(put_in(doc["config"], secrets))
    except ValidationError:
        fault = fault or "Its configuration is from another version; enter it again, or remove it."
        config = ServerConfig(
            name=doc["config"]["name"], kind=doc["config"]["kind"], enabled=bool(doc["config"].get("enabled"))
        )
    if registry.factory(config.kind) is None:
        fault = (
            f'There is no driver for "{config.kind}" on this node: install its plug-in again and restart, or remove '
            "the server."
        )
    state, reason = _state(doc, config, fault, now)
    return Server(
        id=doc["_id"],
        config=config,
        state=state,
        reason=reason,
        hook_secret=hook_secret,
        health=dict(doc["health"]),
        rev=doc["revision"],
    )


def _paused(health: Mapping[str, Any], now: int) -> bool:
    """Whether a pause goes on. One by a person lasts as long as the person said."""
    until = int(health.get("paused_until", 0))
    return too_early(until, now, PAUSE_MS) if health.get("paused_by") == SYSTEM else until > now


def _state(doc: Doc, config: ServerConfig, fault: str, now: int) -> tuple[ServerState, str]:
    if not config.enabled:
        return ServerState.DISABLED, "It is switched off."
    if fault:
        return ServerState.ATTENTION, fault
    if _paused(doc["health"], now):
        return ServerState.PAUSED, str(doc["health"].get("pause_reason", ""))
    return ServerState(doc["state"]), str(doc["reason"])


def sealed_parts(
    whole: Mapping[str, Any], hook_secret: str, *, box: SecretBox, registry: Registry
) -> dict[str, Any]:
    """The parts "config" and "sealed" of a document.

    Args:
        whole: The configuration with its secrets in clear.
        hook_secret: What proves a webhook.
        box: Seals them.
        registry: Knows which fields are secret.
    """
    clear, secrets = take_out(whole, secret_places(registry.factory(str(whole["kind"]))))
    secrets[HOOK] = hook_secret
    return {
        "config": clear,
        "sealed": {name: box.seal(json.dumps(value).encode()) for name, value in secrets.items()},
    }


def _opened(sealed: Mapping[str, str], box: SecretBox) -> tuple[dict[str, Any], str]:
    """The secrets in clear, and what is wrong with them if anything is."""
    try:
        return {name: json.loads(box.open(text)) for name, text in sealed.items()}, ""
    except InvalidSettings as exc:
        return {}, f"{exc.message} Enter its secrets again, or restore the key file."
