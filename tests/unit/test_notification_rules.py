"""Which events a destination hears, how a webhook is signed, where it may go, what it says."""

import base64
import datetime
import ipaddress
import itertools
import json

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from appliance.domain.destination import (
    DeliveryState,
    WebhookFormat,
    advance_delivery,
    check_events,
    matches,
)
from appliance.domain.errors import InvalidInput, InvalidTransition
from appliance.domain.event import Event, EventType
from appliance.domain.notify_errors import AddressNotAllowed, DeliveryError
from appliance.service.notifications import signature
from appliance.service.notifications.addresses import Policy, parse_url, refusal, resolve
from appliance.service.notifications.bodies import MAX_DETAILS, Teller, json_body
from appliance.service.notifications.wording import MAX_TITLE, title_of

TELLER = Teller(id="n" * 52, name="Berlin <b>", url="https://ods.example.com")


def event(type: str = "package.published", subject: str = "p1", **data: object) -> Event:
    return Event(seq=7, type=type, at=1_900_000_000_123, actor="anna", subject=subject, data=data)


# Subscriptions


@pytest.mark.parametrize(
    ("pattern", "type", "heard"),
    [
        ("*", "package.published", True),
        ("package.*", "package.published", True),
        ("package.*", "packages.x", False),
        ("package.*", "package", False),
        ("package.published", "package.published", True),
        ("package.publish", "package.published", False),
        ("sign_in.*", "sign_in.locked", True),
    ],
)
def test_patterns(pattern: str, type: str, heard: bool) -> None:
    assert matches(pattern, type) is heard


def test_every_event_there_is_can_be_named() -> None:
    assert check_events([str(each) for each in EventType]) == tuple(str(each) for each in EventType)
    assert check_events(["package.*", "*", "package.*"]) == ("package.*", "*")


@pytest.mark.parametrize(
    "patterns",
    [[], [""], ["pakage.*"], ["package"], ["package.**"], ["*.published"], ["package.x"], ["*", "x"]],
)
def test_patterns_that_name_nothing_are_refused(patterns: list[str]) -> None:
    with pytest.raises(InvalidInput):
        check_events(patterns)


@pytest.mark.parametrize(("current", "new"), list(itertools.product(DeliveryState, DeliveryState)))
def test_steps_of_deliveries(current: DeliveryState, new: DeliveryState) -> None:
    if current is new or DeliveryState.PENDING in {current, new}:
        assert advance_delivery(current, new) is new
    else:
        with pytest.raises(InvalidTransition):
            advance_delivery(current, new)


# Signatures


def test_the_published_library_verifies_what_either_secret_signed() -> None:
    old, new, other = (signature.new_secret() for _ in range(3))
    assert len(base64.b64decode(new.removeprefix("whsec_"))) == 32
    now = round(datetime.datetime.now(datetime.UTC).timestamp() * 1000)
    body = '{"type":"x","ü":1}'.encode()
    sent = signature.headers(body, id="evt_1", at=now, signing=[new, old])
    assert Webhook(new).verify(body, sent) == Webhook(old).verify(body, sent) == json.loads(body)
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(body, sent)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(body + b" ", sent)


# Addresses


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "::1", "fe80::1", "fd00::1",
     "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::", "192.0.2.1"],
)  # fmt: skip
def test_private_addresses_need_to_be_allowed(address: str) -> None:
    assert "allow_private" in refusal(ipaddress.ip_address(address), allow_private=False)
    assert refusal(ipaddress.ip_address(address), allow_private=True) == ""


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0"]
)
def test_some_addresses_are_never_allowed(address: str) -> None:
    assert refusal(ipaddress.ip_address(address), allow_private=True)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_fine(address: str) -> None:
    assert refusal(ipaddress.ip_address(address), allow_private=False) == ""


@pytest.mark.parametrize(
    "url",
    ["", "hooks.example.com", "ftp://hooks.example.com/", "https://", "https://user@hooks.example.com/",
     "https://u:p@hooks.example.com/", "https://hooks.example.com/#x", "https://hooks.example.com:0/",
     "https://hooks.example.com:99999/", "https://hooks.example.com/a b", "https://hooks.example.com/\r\nX: y",
     "https://hööks.example.com/", "http://hooks.example.com/", "https://127.0.0.1/", "https://[::1]/",
     "https://[fe80::1%25eth0]/", "https://a_b@c/", "https://hooks.example.com/" + "x" * 3000],
)  # fmt: skip
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_url(url, Policy(), allow_private=False)
    assert "/x" not in caught.value.message


def test_a_url_in_parts_shows_no_secret() -> None:
    target = parse_url("https://Hooks.Example.com:8443/services/T0/SECRET?k=v", Policy(), allow_private=False)
    assert (target.host, target.port, target.path) == (
        "hooks.example.com", 8443, "/services/T0/SECRET?k=v",
    )  # fmt: skip
    assert target.shown == "https://hooks.example.com:8443/…"
    plain = parse_url("http://[::1]:80", Policy(), allow_private=True)
    assert (plain.tls, plain.authority, plain.path, plain.shown) == (False, "[::1]", "/", "http://[::1]/")


def test_the_allow_list_of_hosts() -> None:
    policy = Policy(hosts=("hooks.slack.com", "*.example.com"))
    parse_url("https://hooks.slack.com/x", policy, allow_private=False)
    parse_url("https://a.b.example.com/x", policy, allow_private=False)
    for host in ("example.com", "hooks.slack.com.evil.net", "evilexample.com"):
        with pytest.raises(InvalidInput, match="allowed_hosts"):
            parse_url(f"https://{host}/x", policy, allow_private=True)


@pytest.mark.parametrize("host", ["localhost", "127.1", "0x7f000001", "2130706433"])
def test_every_way_to_write_loopback_is_seen_after_resolution(host: str) -> None:
    target = parse_url(f"https://{host}/", Policy(), allow_private=False)
    with pytest.raises(AddressNotAllowed):
        resolve(target, allow_private=False)
    assert {"127.0.0.1", "::1"} & set(resolve(target, allow_private=True))


def test_a_name_that_is_not_known() -> None:
    with pytest.raises(DeliveryError, match=r"nowhere\.invalid is not known"):
        resolve(parse_url("https://nowhere.invalid/", Policy(), allow_private=False), allow_private=False)


# Bodies


def test_the_standard_body() -> None:
    made = json.loads(json_body(WebhookFormat.STANDARD, event(filename="A.pkg", size=3), TELLER))
    assert list(made) == ["type", "timestamp", "data"]
    assert (made["type"], made["timestamp"]) == ("package.published", "2030-03-17T17:46:40.123Z")
    assert made["data"]["details"] == {"filename": "A.pkg", "size": 3}
    assert made["data"]["title"] == "A.pkg was published"
    assert made["data"]["node"]["name"] == "Berlin <b>"
    large = json.loads(json_body(WebhookFormat.STANDARD, event(notes="x" * MAX_DETAILS), TELLER))
    assert (large["data"]["details"], large["data"]["truncated"]) == ({}, True)


def test_slack_gets_no_markup_from_names() -> None:
    made = json_body(WebhookFormat.SLACK, event(filename="<!channel> & <http://evil|x>.pkg"), TELLER).decode()
    assert "<" not in made
    assert ">" not in made
    assert "&lt;!channel&gt; &amp;" in made
    assert len(json.loads(made)["blocks"]) == 3


def test_teams_gets_names_in_text_runs_only() -> None:
    name = "**x** [a](http://evil).pkg"
    card = json.loads(json_body(WebhookFormat.TEAMS, event(filename=name), TELLER))["attachments"][0]
    assert card["contentType"] == "application/vnd.microsoft.card.adaptive"
    body = card["content"]["body"]
    assert {block["type"] for block in body} == {"RichTextBlock"}
    assert body[0]["inlines"][0]["text"] == f"{name} was published"


@pytest.mark.parametrize("type", [*EventType, "from.the.future"])
def test_every_event_has_a_title_of_one_line(type: str) -> None:
    bare = title_of(event(type, "S"))
    assert bare
    assert "{" not in bare
    nasty = title_of(event(type, "S\r\nX: y", filename="a\nb" * 200, name="c\u202e\x00d", days=3))
    assert nasty.isprintable()
    assert len(nasty) <= MAX_TITLE
