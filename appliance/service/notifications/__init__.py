"""Notifications: events of this node's log on their way to webhooks and mailboxes."""
