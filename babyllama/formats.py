"""Numbers as people read them."""

from __future__ import annotations


def human_count(number: float) -> str:
    """A count with a unit of thousand, million, billion.

    >>> human_count(999), human_count(10_500_000), human_count(2_000_000_000)
    ('999', '10.5M', '2.0B')
    """
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            return f"{number / (1e3 if unit == 'k' else limit):.1f}{unit}"
    return f"{number:,.0f}"


def human_seconds(seconds: float) -> str:
    """A duration.

    >>> human_seconds(0.42), human_seconds(252), human_seconds(7_500)
    ('0.4 s', '4 min 12 s', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def human_bytes(number: float) -> str:
    """A size in powers of 1,000.

    >>> human_bytes(512), human_bytes(1_234_567)
    ('512 B', '1.2 MB')
    """
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= limit:
            return f"{number / limit:.1f} {unit}"
    return f"{number:.0f} B"
