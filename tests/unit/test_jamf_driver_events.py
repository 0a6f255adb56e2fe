"""What Jamf Pro's webhooks say is understood, whatever else is in them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.mdm_errors import HookInvalid
from jamf_bridge.jamf_driver.events import EVENTS, parse


def delivery(event: str, body: dict[str, Any], **webhook: Any) -> bytes:
    head = {"id": 7, "name": "ODS", "webhookEvent": event, "eventTimestamp": 1752237458000, **webhook}
    return json.dumps({"webhook": head, "event": body}).encode()


def operation(**changes: Any) -> dict[str, Any]:
    return {
        "operationSuccessful": True,
        "restAPIOperationType": "UPDATE",
        "objectTypeName": "Package",
        "objectName": "Firefox-134.0.pkg",
        "authorizedUsername": "jane.doe",
        "objectID": 10001,
        **changes,
    }


def test_a_rest_operation() -> None:
    hook = parse("application/json", delivery("RestAPIOperation", operation()))
    assert (hook.event, hook.subject, hook.subject_kind) == (
        "RestAPIOperation",
        "Firefox-134.0.pkg",
        "package",
    )
    assert (hook.operation, hook.actor, hook.at, hook.successful) == (
        "update",
        "jane.doe",
        1752237458000,
        True,
    )


@pytest.mark.parametrize(
    ("word", "operation_"),
    [
        ("POST", "create"),
        ("PUT", "update"),
        ("PATCH", "update"),
        ("DELETE", "delete"),
        ("GET", "read"),
        ("?", ""),
    ],
)
def test_words_for_operations(word: str, operation_: str) -> None:
    body = delivery("RestAPIOperation", operation(restAPIOperationType=word))
    assert parse("application/json", body).operation == operation_


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_is_known_whatever_its_case_and_fields(event: str) -> None:
    body = delivery(event.upper(), {"managementId": "new", "computer": {"udid": "1"}})
    assert parse("application/json; charset=utf-8", body).event == event


def test_an_event_of_a_newer_jamf_pro() -> None:
    assert parse("application/json", delivery("PackageUploaded", {})).event == "PackageUploaded"


def test_xml_says_the_same() -> None:
    body = b"""<?xml version="1.0" encoding="UTF-8"?><JSSEvent><webhook><id>7</id>
      <webhookEvent>RestAPIOperation</webhookEvent><eventTimestamp>1752237458000</eventTimestamp></webhook>
      <event><objectName>A &amp; B.pkg</objectName><objectTypeName>Package</objectTypeName>
      <operationSuccessful>false</operationSuccessful><restAPIOperationType>POST</restAPIOperationType></event></JSSEvent>"""
    hook = parse("text/xml", body)
    assert (hook.subject, hook.operation, hook.successful, hook.at) == (
        "A & B.pkg",
        "create",
        False,
        1752237458000,
    )
    assert parse("application/octet-stream", body) == hook


def test_the_same_delivery_twice_has_one_id() -> None:
    first, second = delivery("JSSStartup", {}), delivery("JSSStartup", {}, eventTimestamp=1752237458001)
    assert parse("", first).id == parse("", first).id != parse("", second).id


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"null",
        b"[]",
        b"{}",
        b'{"webhook": 5}',
        b'{"webhook": {"webhookEvent": ""}}',
        b"{",
        b"hello",
        b"\xff\xfe",
        b"<a>",
        b"<a/>",
        b"[" * 100_000,
        b"<a>" * 1000,
        b'<!DOCTYPE a [<!ENTITY b "c">]><a><webhook><webhookEvent>&b;</webhookEvent></webhook></a>',
        b"<html><body>Sign in</body></html>",
    ],
)
@pytest.mark.parametrize("type_", ["application/json", "text/xml", ""])
def test_what_cannot_be_a_webhook_is_refused(type_: str, body: bytes) -> None:
    with pytest.raises(HookInvalid):
        parse(type_, body)


@given(st.binary(max_size=200), st.sampled_from(["text/xml", "application/json"]))
def test_any_bytes_are_understood_or_refused(body: bytes, type_: str) -> None:
    try:
        parse(type_, body)
    except HookInvalid:
        return


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["webhook", "event", "webhookEvent", "eventTimestamp", "objectName", "name", "id"]
                ),
                inner,
            )
        ),
    )
)
def test_any_json_is_understood_or_refused(data: Any) -> None:
    try:
        hook = parse(
            "application/json", json.dumps({"webhook": {"webhookEvent": "X"}, "event": data}).encode()
        )
    except HookInvalid:
        return
    assert hook.event == "X"
