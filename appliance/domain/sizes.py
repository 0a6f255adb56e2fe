"""Sizes in words, the same on every surface: pages, commands and errors."""

_UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB")


def human_size(count: float | None) -> str:
    """Bytes in units of 1000, as Finder shows them: 12.4 GB."""
    if count is None:
        return "unknown"
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    if unit == 0:
        return f"{value:.0f} byte{'' if count == 1 else 's'}"
    return f"{value:.0f} {_UNITS[unit]}" if value >= 100 else f"{value:.1f} {_UNITS[unit]}"
