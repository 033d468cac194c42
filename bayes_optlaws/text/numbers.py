"""Numbers as a person writes them."""

from __future__ import annotations


def short(value: float) -> str:
    """Write a count with a metric suffix.

    Examples
    --------
    >>> short(246240), short(3.6864e6), short(8e9), short(64), short(999_999_000)
    ('246k', '3.69M', '8B', '64', '1B')
    """
    value = float(f"{value:.3g}")  # rounded first: 999.9 million is a billion
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
