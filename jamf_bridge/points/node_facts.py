"""What a distribution point record should say, from a node and the settings of a server."""

import hashlib

from appliance.domain.node import NodeBody

from ..driver import NodeFacts
from ..mirror.templates import render_line
from ..servers.config import Points


def node_facts(id: str, node: NodeBody, config: Points) -> NodeFacts:
    """What a node's record should say.

    Args:
        id: The node's id.
        node: The node.
        config: The settings; `urls` may say under which URL devices reach it.

    Raises:
        InvalidInput: The template of the name cannot be filled in.
    """
    url = config.urls.get(id) or config.urls.get(node.name) or node.url
    values = {"name": node.name, "id": id, "url": url, "stage": node.stage, "context": node.context}
    return NodeFacts(
        id=id,
        name=node.name,
        url=url,
        context=node.context,
        stage=node.stage,
        record_name=render_line(config.name, values) or node.name,
        username=config.username,
        password=config.password,
        failover=config.failover,
    )


def facts_mark(facts: NodeFacts) -> str:
    """A word that changes when a record should say something else; it gives nothing of the password away."""
    parts = (
        facts.url, facts.context, facts.record_name, facts.username, facts.password, str(facts.failover),
    )  # fmt: skip
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
