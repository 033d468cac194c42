"""What a reader must know of an answer before acting: what no fitted run had, a failed gate.

One place, so that predictions, rankings, suggestions, plans, reports and the command line say the
same of the same candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bayes_optlaws.model.discrepancy import settings
from bayes_optlaws.runs.mapping import assumptions
from bayes_optlaws.runs.overview import parted

FAR = 0.5
"""Decades beyond the fitted scales from which the reader is warned (own choice)."""

TOO_FAR = 2.0
"""Decades beyond which no interval is to be trusted (own choice)."""

_NEAR = {"lr": 1.05, "batch": 1.05, "warmup": 1.25, "cooldown": 0.05, "shape": 0.2, "floor": 0.1}
"""How far outside the runs a setting must lie to be named: a factor, or a difference of shares."""

_WORDS = {
    "lr": "peak LR",
    "batch": "batch in tokens",
    "warmup": "warm-up in steps",
    "cooldown": "share of the steps spent cooling down",
    "shape": "shape of the cool-down",
    "floor": "final LR over its peak",
}
_LOGS = ("lr", "batch", "warmup")
_ROUNDING = 1e-6


UNCONVERGED = "UNCONVERGED"
"""First word of the note on a posterior that did not pass the gate."""


def is_unconverged(notes: Sequence[str]) -> bool:
    """Whether notes begin with that on a posterior that did not pass the gate.

    Examples
    --------
    >>> is_unconverged([unconverged_note(["R-hat nan"])]), is_unconverged([])
    (True, False)
    """
    return any(note.startswith(UNCONVERGED) for note in notes)


def unconverged_note(failures: Sequence[str]) -> str:
    """Say that a posterior did not pass the gate, and what of it fails.

    Examples
    --------
    >>> unconverged_note(["R-hat 1.200 > 1.01"])[:12]
    'UNCONVERGED:'
    """
    return (
        f"{UNCONVERGED}: do not decide by these numbers. The sampler failed "
        f"({'; '.join(failures)}); fit again with more tune and draws."
    )


def setting_notes(finished: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Name what of a candidate table no fitted run had: scale, family, settings.

    Parameters
    ----------
    finished : DataFrame
        Validated runs that finished.
    table : DataFrame
        Validated candidate table.

    Returns
    -------
    list of str
        One sentence each; empty where all lies among the runs.

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> runs = bo.read_runs(bo.datasets.load("pocket"))
    >>> finished = runs[~runs["diverged"]]
    >>> setting_notes(finished, finished.head())
    []
    >>> far = finished.head(1).assign(peak_lr=1.0)
    >>> setting_notes(finished, far)
    ['Peak LR 1 lies above all fitted runs (0.003 to 0.15).']
    """
    return [
        *_scale_notes(finished, table),
        *_family_notes(finished, table),
        *_range_notes(finished, table),
        *_parted_notes(finished, table),
    ]


def reading_notes(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Say what was assumed when the tables were read, which the answer rests on.

    Parameters
    ----------
    runs, table : DataFrame
        Validated run table and candidate table.
    """
    of_runs = assumptions(runs)
    return [
        *(f"Run table as read: {text}" for text in of_runs),
        *(f"Candidates as read: {text}" for text in assumptions(table)),
    ]


def _scale_notes(finished: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    out = []
    for column, name in (("n_params", "model size"), ("tokens", "token budget")):
        low, high = finished[column].min(), finished[column].max()
        least, most = table[column].min(), table[column].max()
        up, down = most / high, low / least
        ratio = max(up, down)
        if ratio <= 1.5:
            continue
        where = f"{ratio:,.3g} x {'above the largest' if up >= down else 'below the smallest'}"
        decades = np.log10(ratio)
        if high / low < 1.05:
            out.append(
                f"All fitted runs have one {name} ({_short(high)}), and the candidates lie "
                f"{where.replace(' the largest', '').replace(' the smallest', '')} it: how the "
                f"loss changes with {name} is prior, not learned from these runs."
            )
        elif decades > FAR:
            out.append(
                f"The candidates' {name} is {where} fitted ({decades:.1f} decades); the intervals "
                "allow for it as far as the fitted scales teach."
            )
        if decades > TOO_FAR:
            out.append(
                f"A {name} {decades:.1f} decades beyond the runs is too far for any interval to be "
                "trusted."
            )
    return out


def _unseen_families(finished: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Families that no run has; an array is judged by its cool-down's share and shape instead."""
    return sorted({*table["schedule"]} - {*finished["schedule"], "array"})


def _family_notes(finished: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    unseen = _unseen_families(finished, table)
    if not unseen:
        return []
    return [
        f"No fitted run has the schedule {', '.join(unseen)}: what is said about it rests on the "
        "form of the law."
    ]


def _range_notes(finished: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    ran, asked = settings(finished), settings(table)
    new_family = bool(_unseen_families(finished, table))
    out = []
    for name, words in _WORDS.items():
        if new_family and name in ("cooldown", "shape"):
            continue  # said of the family
        a, b = ran[name], asked[name]
        slack = np.log(_NEAR[name]) if name in _LOGS else _NEAR[name]
        above, below = b.max() > a.max() + slack, b.min() < a.min() - slack
        if not (above or below):
            continue
        value = {"above": b.max(), "below": b.min()}
        sides = [side for side, is_so in (("above", above), ("below", below)) if is_so]
        what = " and ".join(f"{_value(name, value[side])} lies {side}" for side in sides)
        if np.ptp(a) <= _ROUNDING:
            out.append(
                f"{_title(words)} never varied among the fitted runs ({_value(name, a[0])}), the "
                f"candidates have {' and '.join(_value(name, value[s]) for s in sides)}: its "
                "effect is prior."
            )
        else:
            out.append(
                f"{_title(words)} {what} all fitted runs ({_value(name, a.min())} to "
                f"{_value(name, a.max())})."
            )
    return out


def _parted_notes(finished: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    names = parted(finished, table)
    if not names:
        return []
    what = f"{', '.join(names[:-1])} and {names[-1]}"
    return [
        f"{_title(what)} changed only together in the fitted runs, and not in the candidates: what "
        "each does alone is prior; runs that change one of them by itself would tell."
    ]


def _title(words: str) -> str:
    return words[0].upper() + words[1:]


def _value(name: str, value: float) -> str:
    if name in _LOGS:
        return _short(np.exp(value))
    return f"{value:.2f}" if name == "shape" else f"{100 * value:.0f} %"


def _short(value: float) -> str:
    if value >= 1e6 or value < 1e4:
        return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")
    return f"{value:,.0f}"
