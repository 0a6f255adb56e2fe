"""Templates: Jinja2 with escaping everywhere and no silent gaps, and how values are written for people."""

import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from appliance.domain.sizes import human_size

from .assets import asset_url


def human_rate(per_second: float) -> str:
    """Bytes a second: 18.2 MB/s."""
    return f"{human_size(per_second)}/s"


def human_duration(seconds: float) -> str:
    """A length of time in its two largest units: 3 d 4 h."""
    parts: list[str] = []
    left = int(seconds)
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= length or (unit == "s" and not parts):
            parts.append(f"{left // length} {unit}")
            left %= length
    return " ".join(parts[:2])


def time_tag(moment: str | int | None, empty: str = "never") -> Markup:
    """A moment as `<time>`; a script writes it in the viewer's zone.

    Args:
        moment: ISO 8601 in UTC, or UTC milliseconds.
        empty: What to say where there is none.
    """
    if not moment:
        return escape(empty)
    if isinstance(moment, int):
        at = datetime.datetime.fromtimestamp(moment / 1000, datetime.UTC)
    else:
        at = datetime.datetime.fromisoformat(moment)
    text = at.strftime("%Y-%m-%d %H:%M UTC")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(at.isoformat(), text, text)


def exact_tag(moment: str | int | None, empty: str = "never") -> Markup:
    """A moment as `time_tag`; the script writes it to the second, never as "an hour ago"."""
    return time_tag(moment, empty).replace("<time ", Markup("<time data-exact "), 1)


def due_tag(moment: str | int | None, empty: str = "never") -> Markup:
    """A moment that something waits for, as `time_tag`; once it has passed the script says "now"."""
    return time_tag(moment, empty).replace("<time ", Markup("<time data-due "), 1)


def share(part: float, whole: float) -> int:
    """Percent, 0 to 100; 100 of nothing."""
    return 100 if not whole else min(100, max(0, int(100 * part / whole)))


def make_environment() -> Environment:
    """The environment of all pages."""
    environment = Environment(
        loader=PackageLoader("web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "size": human_size,
        "rate": human_rate,
        "duration": human_duration,
        "time": time_tag,
        "due": due_tag,
        "exact": exact_tag,
        "sentence": lambda text: text[:1].upper() + text[1:],
        "number": lambda value: "unknown" if value is None else f"{value:,}".replace(",", "\u202f"),
    }
    environment.globals |= {"asset": asset_url, "share": share}
    return environment


ENVIRONMENT = make_environment()


def render(name: str, values: dict[str, Any]) -> str:
    """A template with these values."""
    return ENVIRONMENT.get_template(name).render(values)
