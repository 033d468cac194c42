"""The settings among which the best schedule is sought: a unit cube for every family.

Bounds that are not given are those of the fitted runs that finished, so that the search does not
leave what the law has seen. The warm-up's are those of runs of like length: where its steps were
a share of the run's, or were cut to fit into short runs, a range over all runs would allow pairs
of warm-up and length that no run had. (Own choice.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_optlaws.runs.readers import read_candidates

FAMILIES = ("linear", "cosine", "wsd", "wsd-sqrt", "polygon", "constant")

_AXES = {
    "wsd": ("cooldown",),
    "wsd-sqrt": ("cooldown",),
    "polygon": ("decay", "plateau", "cooldown"),
}
_LOG = ("peak_lr", "warmup_steps")
_DEFAULT = {"cooldown": (0.1, 0.5), "decay": (0.05, 0.5), "plateau": (0.3, 0.9)}
"""Ranges of what no fitted run has."""

LIKE = 1.5
"""Runs of like length: as many steps up to this factor, else those next to the nearest."""

BOUNDS = ("peak_lr", "warmup_steps", "cooldown", "decay", "plateau")


@dataclass(frozen=True)
class Space:
    """What may be varied, within which bounds, at one model size and budget.

    Attributes
    ----------
    n_params, tokens : float
    batches : ndarray
        Batch sizes to choose from, tokens a step.
    families : tuple of str
    bounds : dict
        Low and high of `BOUNDS`: ``peak_lr``; ``warmup_steps``; ``cooldown`` share of the steps;
        ``decay`` share of the time between warm-up and cooldown; ``plateau`` over ``peak_lr``.
    warmup : ndarray, shape (n_batches, 2)
        Bounds of the warm-up at each batch, because the number of steps is another.
    source : dict of str to str
        Where each pair of bounds comes from.
    floor : float
        Final learning rate over the peak, or absolute.
    relative : bool
        Whether ``floor`` is over the peak.
    """

    n_params: float
    tokens: float
    batches: np.ndarray
    families: tuple[str, ...]
    bounds: dict[str, tuple[float, float]]
    warmup: np.ndarray
    source: dict[str, str]
    floor: float
    relative: bool

    def axes(self, family: str) -> tuple[str, ...]:
        """Names of the coordinates of a family's cube."""
        names = ("peak_lr", "warmup_steps", *_AXES.get(family, ()))
        return (*names, "batch_tokens") if self.batches.size > 1 else names

    def table(self, family: str, cube: np.ndarray) -> pd.DataFrame:
        """Candidate table of points of the unit cube, shape (n, len(axes))."""
        at = dict(zip(self.axes(family), cube.T, strict=True))
        size = self.batches.size
        which = np.zeros(len(cube), dtype=int)
        if "batch_tokens" in at:
            which = np.minimum((at.pop("batch_tokens") * size).astype(int), size - 1)
        value = {"batch_tokens": self.batches[which]}
        for name, u in at.items():
            low, high = self.warmup[which].T if name == "warmup_steps" else self.bounds[name]
            value[name] = low * (high / low) ** u if name in _LOG else low + u * (high - low)
        steps = self.tokens / value["batch_tokens"]
        # Bounds that are given hold for all batches, but a warm-up must end before its run.
        warmup = np.minimum(np.round(value["warmup_steps"]), np.floor(0.9 * steps))
        peak = value["peak_lr"]
        cool = decay = np.full(len(cube), np.nan)
        plateau = peak
        if "cooldown" in value:
            cool = np.clip(np.round(steps * (1 - value["cooldown"])), warmup, steps - 1)
        if family == "polygon":
            decay = np.clip(np.round(warmup + value["decay"] * (cool - warmup)), warmup, cool)
            plateau = value["plateau"] * peak
        floor = self.floor * peak if self.relative else np.full(len(cube), self.floor)
        return read_candidates(
            pd.DataFrame(
                {
                    "n_params": self.n_params,
                    "tokens": self.tokens,
                    "batch_tokens": value["batch_tokens"],
                    "peak_lr": peak,
                    "warmup_steps": warmup,
                    "schedule": family,
                    "min_lr": 0.0 if family == "constant" else np.minimum(floor, 0.5 * plateau),
                    "decay_end_step": decay,
                    "plateau_lr": plateau,
                    "cooldown_start_step": cool,
                }
            ),
            warn=False,
        )


def space(
    runs: pd.DataFrame,
    *,
    n_params: float,
    tokens: float,
    batch_tokens: float | Sequence[float],
    families: Sequence[str] | str | None,
    bounds: Mapping[str, float | tuple[float, float]] | None,
    min_lr: float | None,
) -> Space:
    """Check the question and fill what is left open from the fitted runs that finished.

    Raises
    ------
    ValueError
        Naming the argument, its value, the rule and the remedy.
    """
    finished = runs[~runs["diverged"]]
    for name, value in (("n_params", n_params), ("tokens", tokens)):
        _positive(name, value)
    batches = np.unique(np.atleast_1d(np.asarray(batch_tokens, dtype=float)))
    for batch in batches:
        _positive("batch_tokens", batch)
    if not batches.size or tokens / batches.max() < 10:
        raise ValueError(
            f"batch_tokens is {batch_tokens!r}: a run of {tokens:g} tokens must have at least 10 "
            "steps; lower the batch"
        )
    families = _families(finished, families)
    least_steps = tokens / batches.max()
    given = dict(bounds or {})
    unknown = sorted(set(given) - set(BOUNDS))
    if unknown:
        raise ValueError(f"bounds has {unknown[0]!r}: it may have {', '.join(BOUNDS)}")
    needed = {"peak_lr", "warmup_steps", *(a for f in families for a in _AXES.get(f, ()))}
    found: dict[str, tuple[float, float]] = {}
    source: dict[str, str] = {}
    for name in BOUNDS:
        if name not in needed:
            continue
        if name in given:
            found[name], source[name] = _pair(name, given[name], least_steps), "given"
        elif name != "warmup_steps":
            found[name], source[name] = _seen(name, finished)
    if "warmup_steps" in found:
        warmup = np.tile(found["warmup_steps"], (batches.size, 1))
    else:
        warmup = np.array([_warmup(finished, tokens / b) for b in batches])
        found["warmup_steps"] = (float(warmup[:, 0].min()), float(warmup[:, 1].max()))
        source["warmup_steps"] = "fitted runs of like length that finished"
    floor, relative = _floor(finished, min_lr, found["peak_lr"][0])
    return Space(
        float(n_params), float(tokens), batches, families, found, warmup, source, floor, relative
    )  # fmt: skip


def _families(finished: pd.DataFrame, families: Sequence[str] | str | None) -> tuple[str, ...]:
    if families is None:
        seen = tuple(f for f in FAMILIES if (finished["schedule"] == f).any())
        if not seen:
            raise ValueError(
                "families is None and the fitted runs have none of "
                f"{', '.join(FAMILIES)}: name the families to search"
            )
        return seen
    named = (families,) if isinstance(families, str) else tuple(families)
    unknown = [f for f in named if f not in FAMILIES]
    if unknown or not named:
        raise ValueError(f"families is {families!r}: name one or more of {', '.join(FAMILIES)}")
    return tuple(dict.fromkeys(named))


def _warmup(finished: pd.DataFrame, steps: float) -> tuple[float, float]:
    """Range of the warm-up among fitted runs of like length."""
    length = finished["steps"].to_numpy(float)
    warmup = np.maximum(finished["warmup_steps"].to_numpy(float), 1.0)
    gap = np.abs(np.log(length / steps))
    like = gap <= max(np.log(LIKE), gap.min() + np.log(LIKE) / 2)
    # The run takes no greater share of its steps than a run of like length did.
    most = max(1.0, np.floor(np.max(warmup[like] / length[like]) * steps))
    used = np.minimum(warmup[like], most)
    return float(used.min()), float(used.max())


def _seen(name: str, finished: pd.DataFrame) -> tuple[tuple[float, float], str]:
    """Range of a setting among the fitted runs."""
    steps = finished["steps"].to_numpy(float)
    warmup = np.maximum(finished["warmup_steps"].to_numpy(float), 1.0)
    cool = finished["cooldown_start_step"].to_numpy(float)
    kind = finished["schedule"]
    if name == "peak_lr":
        value = finished["peak_lr"].to_numpy(float)
    elif name == "cooldown":
        value = (1 - cool / steps)[kind.isin(["wsd", "wsd-sqrt", "polygon"]).to_numpy()]
    else:
        mine = (kind == "polygon").to_numpy()
        if name == "plateau":
            value = (finished["plateau_lr"] / finished["peak_lr"]).to_numpy(float)[mine]
        else:
            decay = finished["decay_end_step"].to_numpy(float)
            value = ((decay - warmup) / np.maximum(cool - warmup, 1.0))[mine]
    value = value[np.isfinite(value)]
    if not value.size:
        return _DEFAULT[name], "no fitted run has it: a range of our choice"
    return (float(value.min()), float(value.max())), "fitted runs that finished"


def _floor(finished: pd.DataFrame, min_lr: float | None, least_peak: float) -> tuple[float, bool]:
    if min_lr is not None:
        if not (np.isfinite(min_lr) and 0 <= min_lr < least_peak):
            raise ValueError(
                f"min_lr is {min_lr!r}: it is a learning rate of at least 0 and below the lowest "
                f"peak of the search, {least_peak:g}"
            )
        return float(min_lr), False
    low = finished["min_lr"][finished["schedule"] != "constant"]
    if not len(low) or low.nunique() == 1:
        return (float(low.iloc[0]) if len(low) else 0.0), False
    return float((low / finished["peak_lr"][low.index]).median()), True


EDGE = 0.02
"""A setting this close to a bound, as a share of the range, lies at it."""

BEYOND = 2.0
"""Factor beyond the end of the peak LRs that were run at which the next run is proposed."""


def at_edge(bounds: tuple[float, float], value: float) -> str | None:
    """Whether a value lies at the lower or the higher end of its range, on a log scale.

    Examples
    --------
    >>> at_edge((0.001, 0.1), 0.001), at_edge((0.001, 0.1), 0.01), at_edge((0.1, 0.1), 0.1)
    ('lower', None, None)
    """
    low, high = bounds
    if high <= low:
        return None
    place = np.log(value / low) / np.log(high / low)
    return "lower" if place < EDGE else "higher" if place > 1 - EDGE else None


def run_beyond(runs: pd.DataFrame, setting: pd.DataFrame, edge: str) -> pd.DataFrame:
    """A run past the end of the peak LRs that were run, at the largest scale that was.

    Parameters
    ----------
    runs : DataFrame
        Validated run table.
    setting : DataFrame
        Candidate table of one row that lies at the end.
    edge : {"lower", "higher"}

    Returns
    -------
    DataFrame
        Candidate table of one row: the most costly finished run of the setting's family (of any,
        where there is none), with twice or half the peak LR of the end.
    """
    finished = runs[~runs["diverged"] & (runs["schedule"] != "array")]
    same = finished[finished["schedule"] == setting["schedule"].iloc[0]]
    rows = same if len(same) else finished
    rows = rows[rows["n_params"] * rows["tokens"] == (rows["n_params"] * rows["tokens"]).max()]
    peaks = runs.loc[~runs["diverged"], "peak_lr"]
    end, factor = (peaks.min(), 1 / BEYOND) if edge == "lower" else (peaks.max(), BEYOND)
    row = rows.loc[[(np.log(rows["peak_lr"] / end)).abs().idxmin()]].copy()
    new = float(f"{end * factor:.3g}")
    ratio = new / float(row["peak_lr"].iloc[0])
    for column in ("plateau_lr", "min_lr"):
        row[column] = row[column] * ratio
    row["peak_lr"] = new
    row["run_id"] = f"{row['schedule'].iloc[0]}-lr{new:g}"
    return read_candidates(row.drop(columns=["final_loss", "diverged"])).set_axis(
        row["run_id"].to_numpy(), axis=0
    )


def _positive(name: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value!r}: it must be positive and finite")


def _pair(name: str, value: float | tuple[float, float], least_steps: float) -> tuple[float, float]:
    pair = np.atleast_1d(np.asarray(value, dtype=float))
    low, high = (pair[0], pair[-1])
    rule = {
        "peak_lr": low > 0,
        "warmup_steps": low >= 1 and high < least_steps,
        "cooldown": low > 0 and high < 1,
        "decay": low >= 0 and high <= 1,
        "plateau": low > 0 and high <= 1,
    }[name]
    if pair.size > 2 or not np.all(np.isfinite(pair)) or low > high or not rule:
        words = {
            "peak_lr": "positive",
            "warmup_steps": f"at least 1 step and less than the {least_steps:g} of the run",
            "cooldown": "a share of the steps, above 0 and below 1",
            "decay": "a share of the time between warm-up and cooldown, 0 to 1",
            "plateau": "a share of the peak, above 0 and at most 1",
        }[name]
        raise ValueError(
            f"bounds[{name!r}] is {value!r}: give a number or (low, high), each {words}"
        )
    return float(low), float(high)
