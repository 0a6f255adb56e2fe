"""Notifications over the real store and the real runner, with a clock of the test's own, to a real receiver."""

import asyncio
import datetime
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.destination import DestinationState
from appliance.domain.errors import Conflict, StaleRevision
from appliance.domain.event import EventType
from appliance.service.notifications import webhook
from appliance.service.notifications.addresses import Target
from appliance.service.notifications.deliveries import (
    RETRIES,
    SUSPENDED_AFTER_MS,
)
from appliance.service.notifications.mailbox import QUIET_MS
from tests.fakes.receiver import Receiver, answers, closes, drips, hangs_until
from tests.harness.post import HOUR, Post
from tests.keys import make_certificate

# The way of an event


def test_each_event_is_owed_and_sent_once_to_whom_it_concerns(post: Any, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        await post.happen("before.pkg")
        with Receiver() as other:
            _, secret = await post.hook(receiver, events=["package.*"])
            _, secret2 = await post.hook(other, name="other", events=["peer.down", "package.withdrawn"])
            await post.happen("A.pkg", "Bü <b>.pkg")
            await post.happen("C.pkg", type=EventType.PACKAGE_WITHDRAWN)
            await post.turn()
            await post.turn()
            sent = [each.verify(secret) for each in receiver.received]
            assert [each["data"]["details"]["filename"] for each in sent] == ["A.pkg", "Bü <b>.pkg", "C.pkg"]
            assert [each.verify(secret2)["type"] for each in other.received] == ["package.withdrawn"]
        assert len(set(receiver.ids)) == 3
        assert receiver.received[0].path == "/hook/T0PSECRET"
        assert receiver.received[0].headers["content-type"] == "application/json"
        assert receiver.received[0].headers["host"] == f"localhost:{receiver.port}"
        assert await post.states() == ["delivered"] * 4
        row = (await post.rows())[0]
        assert (row["status"], row["answer"], row["attempts"], row["error"]) == (200, "ok", 1, "")
        assert row["_id"] == f"{row['event']}.{row['destination']}"

    post(test)


def test_a_lost_cursor_doubles_nothing(post: Any, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        await post.hook(receiver, events=["package.*"])
        await post.happen("A.pkg", "B.pkg")
        await post.turn()
        await post.store.delete("followers", {"_id": "outbox"})
        await post.store.insert("followers", {"_id": "outbox", "seq": 0})
        await post.turn()
        assert len(receiver.received) == len(await post.rows()) == 2

    post(test)


def test_two_processes_that_relay_at_once_make_each_row_once(post: Any, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        await post.hook(receiver, events=["package.*"])
        await post.happen(*(f"{number}.pkg" for number in range(30)))
        rounds = await asyncio.gather(*(post.outbox.relay() for _ in range(6)), return_exceptions=True)
        assert all(isinstance(each, bool | StaleRevision) for each in rounds)
        assert any(isinstance(each, StaleRevision) for each in rounds)
        assert len(await post.rows()) == 30
        await post.turn()
        assert len(receiver.received) == 30

    post(test)


def test_failures_are_tried_again_later_and_later_and_a_success_clears_them(
    post: Any, receiver: Receiver
) -> None:
    async def test(post: Post) -> None:
        id, _ = await post.hook(receiver, events=["package.*"])
        receiver.behave = answers(500, b"out of <order> token=abcdef")
        await post.happen("A.pkg")
        await post.turn()
        waits = []
        for attempt in range(1, 5):
            row = (await post.rows())[0]
            assert (row["state"], row["attempts"], row["status"]) == ("pending", attempt, 500)
            assert row["answer"].startswith("out of <order>")
            assert "abcdef" not in row["answer"]
            waits.append((row["due_at"] - post.clock()) // 1000)
            post.clock.ms = row["due_at"] - 1
            await post.turn()
            assert len(receiver.received) == attempt, "not a moment too early"
            post.clock.ms += 1
            await post.turn()
            assert len(receiver.received) == attempt + 1
        assert waits == [5, 10, 20, 40]
        destination = await post.destinations.get(id)
        assert (destination.failures, destination.state) == (5, DestinationState.ACTIVE)
        assert "answered 500" in destination.last_error
        await post.happen("B.pkg")
        await post.turn()
        assert len(receiver.received) == 5, "the back-off is the destination's"
        receiver.behave = answers(204, b"")
        post.clock.ms = destination.not_before
        await post.turn()
        destination = await post.destinations.get(id)
        assert (destination.failures, destination.not_before, destination.last_error) == (0, 0, "")
        assert await post.states() == ["delivered", "delivered"]
        assert len(set(receiver.ids)) == 2
        assert len(receiver.ids) == 7
        assert receiver.received[0].id == receiver.received[5].id, "the id of a message stays"

    post(test)


def test_it_gives_up_after_three_days_suspends_and_resumes_by_hand(post: Any, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        id, _ = await post.hook(receiver, events=["*"])
        receiver.behave = answers(500)
        began = post.clock()
        await post.happen("A.pkg", "B.pkg")
        await post.turn()
        for _ in range(2 * RETRIES.attempts):
            if (await post.destinations.get(id)).state is not DestinationState.ACTIVE:
                break
            post.clock.ms = (await post.destinations.get(id)).not_before
            await post.turn()
        assert SUSPENDED_AFTER_MS <= post.clock() - began < SUSPENDED_AFTER_MS + 8 * HOUR
        tries = len(receiver.received)
        assert tries <= RETRIES.attempts + 5
        suspended = await post.store.find("events", {"type": "destination.suspended"})
        assert [doc["subject"] for doc in suspended] == [id]
        await post.happen("C.pkg")
        post.clock.ms += 24 * HOUR
        await post.turn()
        assert len(receiver.received) == tries, "nothing is sent"
        receiver.behave = answers(200)
        await post.all.change(id, {"enabled": True}, actor="admin")
        await post.turn()
        assert "pending" not in await post.states(), "what was owed went out"
        assert len(receiver.received) > tries

    post(test)


def test_a_notification_that_fails_for_good_is_shown_and_can_be_sent_again(
    post: Any, receiver: Receiver
) -> None:
    async def test(post: Post) -> None:
        id, _ = await post.hook(receiver, events=["package.*"])
        receiver.behave = answers(500)
        await post.happen("A.pkg")
        await post.turn()
        row = (await post.rows())[0]
        await post.store.replace("deliveries", {**row, "attempts": RETRIES.attempts - 1, "due_at": 0})
        post.clock.ms += HOUR
        await post.turn()
        assert await post.states() == ["failed"]
        post.clock.ms += 100 * HOUR
        await post.turn()
        assert len(receiver.received) == 2
        receiver.behave = answers(200)
        again = await post.deliveries.resend(row["_id"])
        assert again["state"] == "pending"
        await post.turn()
        assert await post.states() == ["delivered"]
        await post.deliveries.resend(row["_id"])
        await post.turn()
        assert len(receiver.received) == 4, "a person may ask for what was delivered, too"
        await post.destinations.change(id, {"enabled": False}, actor="admin")
        with pytest.raises(Conflict, match="disabled"):
            await post.deliveries.resend(row["_id"])

    post(test)


def test_a_destination_that_is_gone_is_suspended_at_once(post: Any, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        id, _ = await post.hook(receiver, events=["package.*"])
        receiver.behave = answers(410)
        await post.happen("A.pkg")
        await post.turn()
        assert (await post.destinations.get(id)).state is DestinationState.SUSPENDED
        assert await post.states() == ["pending"]
        receiver.behave = answers(200)
        attempt = await post.all.try_out(id)
        assert attempt.receipt is not None
        await post.turn()
        assert await post.states() == ["delivered"], "a test that goes through resumes it"

    post(test)


def test_a_receiver_says_when_to_come_back(post: Any, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        id, _ = await post.hook(receiver, events=["package.*"])
        receiver.behave = answers(429, Retry_After="1234")
        await post.happen("A.pkg")
        await post.turn()
        assert (await post.rows())[0]["due_at"] == post.clock() + 1_234_000
        assert (await post.destinations.get(id)).not_before == post.clock() + 1_234_000

    post(test)


@pytest.mark.parametrize("where", ["private", "elsewhere"])
def test_redirects_are_not_followed(post: Any, receiver: Receiver, where: str) -> None:
    async def test(post: Post) -> None:
        await post.hook(receiver, events=["package.*"])
        location = (
            f"http://127.0.0.1:{receiver.port}/inside" if where == "private" else "https://example.com/"
        )
        receiver.behave = answers(302, Location=location)
        await post.happen("A.pkg")
        await post.turn()
        row = (await post.rows())[0]
        assert (row["state"], row["status"]) == ("pending", 302)
        assert "redirects are not followed" in row["error"]
        assert len(receiver.received) == 1
        assert receiver.fetched == []

    post(test)


def test_receivers_that_hang_drip_or_hang_up_end_in_time(
    post: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "OPERATION_S", 0.4)
    real = webhook.post
    monkeypatch.setattr(
        "appliance.service.notifications.sending.post",
        lambda *arguments, **keywords: real(*arguments, **keywords, total_s=0.8),
    )
    enough = threading.Event()

    async def test(post: Post) -> None:
        id, _ = await post.hook(receiver)
        destination = await post.destinations.get(id)
        for behave, text in (
            (hangs_until(enough), "did not answer in time"),
            (drips, "did not answer in time"),
            (closes, "does not answer as a web server"),
        ):
            receiver.behave = behave
            attempt = await asyncio.to_thread(post.all.sending.try_out, destination)
            assert attempt.error is not None
            assert text in attempt.error.message
            assert "T0PSECRET" not in attempt.error.message

    try:
        post(test)
    finally:
        enough.set()


def test_an_answer_is_an_answer_when_its_body_never_comes(
    post: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "OPERATION_S", 0.4)
    enough = threading.Event()

    def behave(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        handler.wfile.write(b"thanks \x1b[31m")
        handler.wfile.flush()
        enough.wait(30)

    async def test(post: Post) -> None:
        id, _ = await post.hook(receiver)
        receiver.behave = behave
        attempt = await post.all.try_out(id)
        assert attempt.receipt is not None
        assert (attempt.receipt.status, attempt.receipt.answer) == (200, "thanks [31m")

    try:
        post(test)
    finally:
        enough.set()


def test_a_large_answer_is_not_read(post: Any, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        id, _ = await post.hook(receiver)
        receiver.behave = answers(200, b"x" * 5_000_000)
        attempt = await post.all.try_out(id)
        assert attempt.receipt is not None
        assert len(attempt.receipt.answer) == webhook.SHOWN_ANSWER

    post(test)


def test_nobody_listens(post: Any) -> None:
    async def test(post: Post) -> None:
        with Receiver() as gone:
            id, _ = await post.hook(gone, events=["package.*"])
        await post.happen("A.pkg")
        await post.turn()
        row = (await post.rows())[0]
        assert (row["state"], row["status"]) == ("pending", 0)
        assert "Connection refused" in row["error"]
        assert (await post.destinations.get(id)).failures == 1

    post(test)


def test_private_addresses_are_checked_after_the_name_was_resolved(post: Any, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        made, _ = await post.destinations.add(
            {"name": "x", "kind": "webhook", "url": f"https://localhost:{receiver.port}/", "events": ["package.*"]},
            actor="a",
        )  # fmt: skip
        attempt = await post.all.try_out(made.id)
        assert attempt.error is not None
        assert attempt.error.code == "address_not_allowed"
        await post.happen("A.pkg")
        await post.turn()
        assert (await post.rows())[0]["state"] == "pending"
        assert receiver.received == []

    post(test)


def test_the_connection_goes_to_the_address_that_was_checked(receiver: Receiver) -> None:
    """The name exists nowhere: whoever asked DNS again would not get there. The first address does not answer."""
    target = Target(tls=False, host="receiver.invalid", port=receiver.port, path="/x?y=1")
    receipt = webhook.post(target, ["127.0.0.2", "127.0.0.1"], b"{}", {}, trust=None)
    assert receipt.status == 200
    assert receiver.received[0].headers["host"] == f"receiver.invalid:{receiver.port}"
    assert receiver.received[0].path == "/x?y=1"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    files = tmp_path / "tls.crt", tmp_path / "tls.key"
    make_certificate(*files, "localhost", now=datetime.datetime.now(datetime.UTC))
    return files


def test_tls_is_verified(post: Any, certificate: tuple[Path, Path]) -> None:
    async def trusting(post: Post) -> None:
        id, secret = await post.hook(receiver)
        attempt = await post.all.try_out(id)
        assert attempt.receipt is not None, attempt.error
        assert receiver.received[0].verify(secret)["type"] == "destination.test"

    async def strict(post: Post) -> None:
        id = (await post.destinations.all())[0].id
        attempt = await post.all.try_out(id)
        assert attempt.error is not None
        assert "certificate of localhost is not trusted" in attempt.error.message
        assert len(receiver.received) == 1

    with Receiver(*certificate) as receiver:
        post(trusting, ca_file=str(certificate[0]))
        post(strict)


def test_what_was_put_off_while_the_clock_was_ahead_is_sent_in_time(post: Any, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        await post.hook(receiver)
        receiver.behave = answers(500, b"")
        right = post.clock.ms
        post.clock.ms += 48 * HOUR
        await post.happen("A.pkg")
        await post.turn()
        assert await post.states() == ["pending"]
        post.clock.ms = right
        receiver.behave = answers(204, b"")
        await post.deliveries.purge()
        assert (await post.rows())[0]["due_at"] == right + 5000
        post.clock.ms += 5000
        await post.turn()
        assert await post.states() == ["delivered"]

    post(test)


def test_a_mailbox_that_heard_while_the_clock_was_ahead_hears_on(post: Any, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        id, _ = await post.hook(receiver)
        destination = await post.destinations.get(id)
        ahead = replace(destination, not_before=post.clock() + 2 * HOUR)
        assert not post.deliveries.waits(ahead)
        assert post.deliveries.waits(replace(destination, not_before=post.clock() + QUIET_MS))
        assert post.deliveries.waits(replace(ahead, failures=1)), "as long as a receiver may ask"
        assert not post.deliveries.waits(replace(ahead, failures=1, not_before=post.clock() + 48 * HOUR))

    post(test)
