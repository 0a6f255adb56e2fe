"""Notifications: events of this node's log on their way to webhooks and mailboxes.

    outbox        follows the event log: a row for each event and destination that hears of it
    deliveries    the rows: what is due, how it went, when it is tried again, when a destination is suspended
    sending       the job on the queue "delivery" that sends what is due to one destination, and the test button
    destinations  made, changed, removed; seals URLs and secrets

    webhook       one POST: `addresses` says where to, `signature` signs, `bodies` and `template` make the body
    mailbox       one mail of one or many events, and the SMTP server
    wording       events in words;  alarm  ends what takes too long

At least once: what was sent and not recorded, because the node died in between, is sent again with the same
`webhook-id` or Message-ID. What was recorded as delivered is never sent again, unless a person asks.
"""

from .notifications import Notifications

__all__ = ["Notifications"]
