"""Destinations: secrets, changes, formats, and how long rows are kept."""

from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import InvalidInput, StaleRevision
from appliance.domain.notify_errors import DestinationExists, DestinationUnknown
from appliance.service.notifications.deliveries import (
    DELIVERED_KEPT_MS,
    OWED_MS,
)
from appliance.service.notifications.destinations import OVERLAP_MS
from tests.fakes.receiver import Receiver, answers
from tests.harness.post import Post


def test_secrets_are_sealed_and_rotate_with_an_overlap(post: Any, receiver: Receiver, tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        id, old = await post.hook(receiver)
        _, new = await post.destinations.rotate(id, actor="admin")
        assert new != old
        await post.all.try_out(id)
        assert receiver.received[0].verify(old) == receiver.received[0].verify(new)
        post.clock.ms += OVERLAP_MS + 1
        assert post.destinations.signing(await post.destinations.get(id)) == [new]
        kept = str(await post.store.find("destinations")) + str(await post.store.find("events"))
        assert "T0PSECRET" not in kept
        assert old.removeprefix("whsec_") not in kept

    post(test)
    for file in tmp_path.glob("*.sqlite3*"):
        assert b"T0PSECRET" not in file.read_bytes()


def test_changes_are_checked_logged_and_seen(post: Any, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        id, _ = await post.hook(receiver)
        changed = await post.destinations.change(id, {"events": ["peer.*"]}, actor="anna", expect=1)
        assert (changed.version, changed.events) == (2, ("peer.*",))
        url = f"{receiver.url}another-secret-path"
        await post.destinations.change(id, {"url": url, "format": "slack"}, actor="anna")
        logged = await post.store.find("events", {"type": "destination.changed"}, order="seq")
        assert [(doc["data"]["before"], doc["data"]["after"]) for doc in logged] == [
            ({"events": ["*"]}, {"events": ["peer.*"]}),
            (
                {"format": "standard", "url": changed.shown_url},
                {"format": "slack", "url": f"{changed.shown_url}, another address there"},
            ),
        ]
        assert "another-secret-path" not in str(logged)
        with pytest.raises(StaleRevision):
            await post.destinations.change(id, {"name": "x"}, actor="b", expect=1)
        with pytest.raises(DestinationExists):
            await post.hook(receiver)
        for wrong in (
            {"url": "https://10.0.0.1/", "allow_private": False},
            {"allow_private": False},
            {"address": "a@example.com"},
            {"format": "template", "template": "{{ 'a' * 10 }}"},
            {"format": "template", "template": ""},
            {"template": "x"},
            {"events": ["nothing.*"]},
            {"name": " x"},
            {"name": "a\nb"},
        ):
            with pytest.raises(InvalidInput):
                await post.destinations.change(id, wrong, actor="a")
        with pytest.raises(InvalidInput, match=r"mail\.host"):
            await post.destinations.add({"name": "m", "kind": "mail", "address": "a@example.com"}, actor="a")
        await post.destinations.remove(id, actor="anna")
        with pytest.raises(DestinationUnknown):
            await post.destinations.get(id)
        types = [doc["type"] for doc in await post.store.find("events", order="seq")]
        assert types == ["destination.added", *["destination.changed"] * 2, "destination.removed"]

    post(test)


def test_what_happens_while_a_destination_is_off_is_not_owed(post: Any, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        id, _ = await post.hook(receiver, events=["package.*"])
        await post.destinations.change(id, {"enabled": False}, actor="a")
        await post.happen("A.pkg")
        await post.turn()
        await post.happen("B.pkg")
        await post.destinations.change(id, {"enabled": True}, actor="a")
        await post.happen("C.pkg")
        await post.turn()
        assert [each.json()["data"]["subject"] for each in receiver.received] == ["id-C.pkg"]

    post(test)


@pytest.mark.parametrize(
    ("format", "given", "expected"),
    [
        ("slack", {}, '"text":"A.pkg was published (Berlin)"'),
        ("teams", {}, "application/vnd.microsoft.card.adaptive"),
        ("template", {"template": '{"n": {{ data.title|tojson }}}'}, '{"n": "A.pkg was published"}'),
    ],
)
def test_formats(post: Any, receiver: Receiver, format: str, given: dict[str, str], expected: str) -> None:
    async def test(post: Post) -> None:
        await post.hook(receiver, events=["package.*"], format=format, **given)
        await post.happen("A.pkg")
        await post.turn()
        assert expected in receiver.received[0].body.decode()

    post(test)


# Keeping


def test_old_rows_go_and_what_waits_too_long_fails(post: Any, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        id, _ = await post.hook(receiver, events=["package.*"])
        await post.happen("A.pkg")
        await post.turn()
        receiver.behave = answers(410)
        await post.happen("B.pkg")
        await post.turn()
        post.clock.ms += DELIVERED_KEPT_MS - 1
        await post.deliveries.purge()
        assert await post.states() == ["delivered", "pending"]
        post.clock.ms += OWED_MS - DELIVERED_KEPT_MS + 2
        await post.deliveries.purge()
        rows = await post.rows()
        assert [row["state"] for row in rows] == ["failed"]
        assert "30 days" in rows[0]["error"]
        await post.destinations.remove(id, actor="a")
        assert await post.rows() == []

    post(test)
