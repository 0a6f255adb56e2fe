"""What one reading of a peer's feed may cost."""

import pytest

from appliance.domain.errors import PeerMisbehaved
from appliance.peering.wire import Changes
from appliance.service import replication as module
from appliance.service.replication import FeedBounds


def page(next: int, *, feed: str = "f", more: bool = True, records: int = 1) -> Changes:
    return Changes(feed=feed, next=next, more=more, records=[{}] * records)


def read(pages: list[Changes], *, new: int = 0) -> FeedBounds:
    bounds, feed, since = FeedBounds(), "", 0
    for each in pages:
        bounds.check(each, feed=feed, since=since)
        bounds.took(each, new=new)
        feed, since = each.feed, each.next
    return bounds


def test_a_long_feed_of_which_all_is_known() -> None:
    """Read again from the beginning: 3 million records, and none of them is new."""
    bounds = read([page(500 * number, records=500) for number in range(1, 6001)])
    assert bounds.ids == 1


def test_pages_without_records_are_of_records_that_do_not_go_out() -> None:
    """A node whose clock is behind passes none of them on, and says where it goes on."""
    read([page(500 * number, records=0) for number in range(1, 1000)])


def test_a_peer_that_is_restarted_meanwhile() -> None:
    assert read([page(500 * number, feed=f"f{number // 3}") for number in range(1, 12)]).ids == 4


@pytest.mark.parametrize(
    ("pages", "reason", "new"),
    [
        ([page(500), page(500)], "advance", 1),
        ([page(500), page(400)], "advance", 1),
        ([page(0, records=0)], "advance", 0),
        ([page(number) for number in range(1, 200)], "end", 0),
        ([page(number, records=0) for number in range(1, 200)], "end", 0),
        ([page(500, feed=f"f{number}", records=500) for number in range(9)], "new id on every page", 1),
        ([page(500 * number) for number in range(1, module._FEED_PAGES + 2)], "end", 1),
    ],
)
def test_a_feed_that_is_none(pages: list[Changes], reason: str, new: int) -> None:
    with pytest.raises(PeerMisbehaved, match=reason):
        read(pages, new=new)
