"""Numbers as people write them: read from text, and written for people."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from numbers import Real
from typing import Any

__all__ = [
    "SCALES",
    "as_numbers",
    "count",
    "parse",
    "rate",
    "rounding",
    "scale_label",
    "scale_of",
    "scale_word",
    "short",
]

SCALES = {
    "k": 1e3, "thousand": 1e3, "thousands": 1e3,
    "m": 1e6, "mio": 1e6, "million": 1e6, "millions": 1e6,
    "b": 1e9, "bn": 1e9, "g": 1e9, "billion": 1e9, "billions": 1e9,
    "t": 1e12, "trillion": 1e12, "trillions": 1e12,
    "%": 0.01, "percent": 0.01, "pct": 0.01,
}  # fmt: skip
"""What a suffix of a number, or the unit in a column's name, multiplies by."""

_DECIMAL = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_SUFFIXED = re.compile(rf"({_DECIMAL})\s*([a-zA-Z]+|%)")
_POWER = re.compile(r"(\d+)\s*(?:\^|\*\*)\s*(\d{1,3})")
_GROUPED = re.compile(
    r"([+-]?[1-9]\d{0,2}(?:([,_ '\u00a0\u2009\u202f])\d{3})(?:\2\d{3})*(?:\.\d+)?)(.*)"
)


def parse(value: object, *, grouped: bool = False) -> float:
    """Return the number that a cell holds, NaN where it holds none.

    Parameters
    ----------
    value : object
        A number, or text such as ``"1e9"``, ``"0.1B"``, ``"3.81k"``, ``"5%"``, ``"2**19"``.
    grouped : bool
        Whether separators of thousands are allowed, as in ``"100,000,000"``: in counts only,
        because ``"2,811"`` may be a loss with a decimal comma.

    Returns
    -------
    float

    Examples
    --------
    >>> parse("0.1B"), parse("350M"), parse("3.81k"), parse("5 %"), parse("2**19")
    (100000000.0, 350000000.0, 3810.0, 0.05, 524288.0)
    >>> parse("100,000,000", grouped=True), parse("100,000,000"), parse("fast"), parse(True)
    (100000000.0, nan, nan, nan)
    """
    if isinstance(value, bool) or not isinstance(value, Real | Decimal | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        pass
    if not isinstance(value, str):
        return math.nan
    text = value.strip()
    if len(text) > 60:
        return math.nan
    if grouped and (found := _GROUPED.fullmatch(text)):
        text = found[1].replace(found[2], "") + found[3]
        try:
            return float(text)
        except ValueError:
            pass
    if found := _POWER.fullmatch(text):
        try:
            return float(int(found[1]) ** int(found[2]))
        except OverflowError:
            return math.nan
    if found := _SUFFIXED.fullmatch(text):
        scale = SCALES.get(found[2].lower())
        if scale is not None:
            # decimal, so that 0.1B is 100,000,000 and nothing else
            product = Decimal(found[1]) * Decimal(repr(scale))
            return float(product)
    return math.nan


def as_numbers(value: Any) -> Any:
    """Return numbers written as text, one or several, as numbers; others as they are.

    Raises
    ------
    ValueError
        When text is no number.

    Examples
    --------
    >>> as_numbers("1.5B"), as_numbers(["256k", 5e5]), as_numbers(2)
    (1500000000.0, [256000.0, 500000.0], 2)
    """
    if isinstance(value, list | tuple):
        return [as_numbers(v) for v in value]
    if not isinstance(value, str):
        return value
    number = parse(value, grouped=True)
    if math.isnan(number):
        raise ValueError(f"{value!r} is no number: write it as 1.5e9 or 1.5B")
    return number


def rounding(value: object) -> float:
    """Return half a unit of the last digit of a number with a suffix, relative; else 0.

    Examples
    --------
    >>> round(rounding("3.81k"), 5), rounding("15k"), rounding("3814"), rounding(3.8)
    (0.00131, 0.03333333333333333, 0.0, 0.0)
    """
    if not isinstance(value, str) or not (found := _SUFFIXED.fullmatch(value.strip())):
        return 0.0
    mantissa = found[1].lower().split("e")[0]
    size = abs(float(mantissa))
    decimals = len(mantissa.partition(".")[2])
    return 0.5 * 10.0**-decimals / size if size else 0.0


def scale_of(unit: object) -> float | None:
    """Return the factor of a unit given as number or word, None where it is no such unit.

    Examples
    --------
    >>> scale_of("B"), scale_of("millions"), scale_of(1e9), scale_of("1e6"), scale_of("nats")
    (1000000000.0, 1000000.0, 1000000000.0, 1000000.0, None)
    """
    if isinstance(unit, str) and unit.strip().lower() in SCALES:
        return SCALES[unit.strip().lower()]
    value = parse(unit)
    return value if 0 < value < math.inf else None


def scale_word(scale: float) -> str:
    """Return a factor in words.

    Examples
    --------
    >>> scale_word(1e9), scale_word(1e3), scale_word(0.01), scale_word(2048.0)
    ('billions', 'thousands', 'percent', 'units of 2,048')
    """
    words = {1e3: "thousands", 1e6: "millions", 1e9: "billions", 1e12: "trillions", 0.01: "percent"}
    return words.get(scale, f"units of {count(scale)}")


def short(value: float) -> str:
    """Write a count with a metric suffix.

    Examples
    --------
    >>> short(246240), short(3.6864e6), short(8e9), short(64), short(999999)
    ('246k', '3.69M', '8B', '64', '1M')
    """
    if not math.isfinite(value):
        return str(value)
    value = float(f"{value:.3g}")
    for unit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{suffix}"
    return f"{value:.3g}"


def scale_label(n_params: float, tokens: float) -> str:
    """Name a cell of the table by its model size and budget.

    Examples
    --------
    >>> scale_label(246240, 2457600)
    'N = 246k, 2.46M tokens'
    """
    return f"N = {short(n_params)}, {short(tokens)} tokens"


def count(value: float) -> str:
    """Write a count with separators of thousands; what is no whole number, to four digits.

    Examples
    --------
    >>> count(57220.459), count(250.0), count(0.5), count(float("nan"))
    ('57,220', '250', '0.5', '–')
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else str(value)
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def rate(value: float) -> str:
    """Write a learning rate to three digits.

    Examples
    --------
    >>> rate(1.0123e-3), rate(3e-4), rate(0.012), rate(0.0), rate(0.1)
    ('1.01e-3', '3e-4', '0.012', '0', '0.1')
    """
    if math.isnan(value):
        return "–"
    if value == 0 or 0.01 <= abs(value) < 1000 or not math.isfinite(value):
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
