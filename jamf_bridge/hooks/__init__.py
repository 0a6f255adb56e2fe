"""Webhooks that MDM servers send: who may come in, what they mean, and what is done about them."""
