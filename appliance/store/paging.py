"""Reading more documents than one answer of a store holds."""

from collections.abc import AsyncIterator
from typing import Any

from .ports import Doc, Store, Where

PAGE = 500  #: documents


async def pages(
    store: Store,
    collection: str,
    where: Where | None = None,
    *,
    order: str = "_id",
    after: tuple[Any, str] | None = None,
) -> AsyncIterator[list[Doc]]:
    """Every document that matches, up to `PAGE` at once; arguments as of `Store.find`.

    A document that is written meanwhile may be missed or come twice if what it is ordered by changes.
    """
    while True:
        docs = await store.find(collection, where, order=order, limit=PAGE, after=after)
        if docs:
            yield docs
        if len(docs) < PAGE:
            return
        after = (docs[-1].get(order), docs[-1]["_id"])


async def every(
    store: Store,
    collection: str,
    where: Where | None = None,
    *,
    order: str = "_id",
    after: tuple[Any, str] | None = None,
) -> AsyncIterator[Doc]:
    """Every document that matches, one after the other; see `pages`."""
    async for docs in pages(store, collection, where, order=order, after=after):
        for doc in docs:
            yield doc
