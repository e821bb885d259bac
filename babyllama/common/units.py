"""Numbers as people read them."""

from __future__ import annotations

ROUNDS_UP = 0.99995  # of a unit: 999,950 is written 1.0M, not 1000.0k


def human_count(number: float) -> str:
    """Return a count with a unit of thousand, million, billion.

    >>> human_count(999), human_count(999_999), human_count(10_500_000), human_count(2_000_000_000)
    ('999', '1.0M', '10.5M', '2.0B')
    """
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= (1e4 if unit == "k" else limit * ROUNDS_UP):
            return f"{number / limit:.1f}{unit}"
    return f"{number:,.0f}"


def human_seconds(seconds: float) -> str:
    """Return a duration.

    >>> human_seconds(0.42), human_seconds(9.97), human_seconds(59.6), human_seconds(252), human_seconds(7_500)
    ('0.4 s', '10 s', '1 min 0 s', '4 min 12 s', '2 h 5 min')
    """
    if round(seconds) < 60:
        return f"{seconds:.1f} s" if round(seconds, 1) < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def human_bytes(number: float) -> str:
    """Return a size in powers of 1,000.

    >>> human_bytes(512), human_bytes(1_234_567)
    ('512 B', '1.2 MB')
    """
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= limit * ROUNDS_UP:
            return f"{number / limit:.1f} {unit}"
    return f"{number:.0f} B"


def parse_count(value: object) -> int:
    """Return a count written as a number or with a unit: k, M, B.

    >>> parse_count("1M"), parse_count("1.5k"), parse_count(200)
    (1000000, 1500, 200)

    Raises:
        ValueError: It is neither, or not a whole number of at least 1.
    """
    text = str(value).strip().replace("_", "")
    unit = {"k": 10**3, "m": 10**6, "b": 10**9}.get(text[-1:].lower(), 1)
    try:
        number = float(text[:-1] if unit > 1 else text) * unit
    except ValueError:
        number = 0.0
    if number < 1 or number != int(number):
        raise ValueError(f"{value!r} is not a count: write 500000, 500k or 1M")
    return int(number)


def short_words(count: int) -> str:
    """Return a count of words in a name, as BabyLM writes it.

    >>> short_words(1_000_000), short_words(1_000_000_000), short_words(2_500), short_words(1_234_567)
    ('1M', '1000M', '2.5k', '1234567')
    """
    for limit, unit in ((10**6, "M"), (10**3, "k")):
        if count >= limit and count * 10 % limit == 0:
            return f"{count / limit:g}{unit}" if count / limit < 1e5 else f"{count // limit}{unit}"
    return str(count)
