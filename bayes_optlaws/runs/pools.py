"""Pools of runs that could be made: a candidate table from values and ranges."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import qmc

from bayes_optlaws.runs.faults import RunTableWarning
from bayes_optlaws.runs.files import Source
from bayes_optlaws.runs.readers import read_candidates, read_runs
from bayes_optlaws.text.numbers import parse, rate, short

__all__ = ["default_pool", "pool", "stage_pool"]

Choice = float | str | Sequence[float | str] | tuple[float | str, float | str]

POINTS = 5
"""Values taken from a range on a grid."""

_CORNERS = ("decay_end_step", "cooldown_start_step")
_OF_STAGE = ("group", "n_params", "batch_tokens", "peak_lr", "min_lr", "schedule")


def pool(
    *,
    n_params: Choice,
    tokens: Choice,
    batch_tokens: Choice,
    peak_lr: Choice,
    warmup: Choice = 0.05,
    schedule: str | Sequence[str] = "cosine",
    cooldown: Choice = 0.2,
    min_lr: float = 0.0,
    n: int | None = None,
    points: int = POINTS,
    random_seed: int = 0,
) -> pd.DataFrame:
    """Build a table of runs that could be made, from values and ranges.

    Each argument is a number, a list of values, or a tuple ``(low, high)``: a range, spaced
    evenly on the log scale. Numbers may be text such as "1.5B". Without ``n`` all combinations are
    made; with ``n`` that many points of a scrambled Sobol sequence over the ranges and lists.

    Parameters
    ----------
    n_params, tokens, batch_tokens, peak_lr : number, list or (low, high)
        As in the run table.
    warmup : number, list or (low, high)
        Warm-up: below 1 a share of the run's steps, else steps; 0 for none.
    schedule : str or list of str
        Names as in the run table, save "polygon" and "array", which need more columns.
    cooldown : number, list or (low, high)
        Share of the steps spent cooling down, for "wsd" and "wsd-sqrt" only; in (0, 1).
    min_lr : float
        Final learning rate as a share of the peak, for schedules that decay; in [0, 1).
    n : int, optional
        Number of points instead of the grid.
    points : int
        Values of each range on the grid.
    random_seed : int
        Of the Sobol sequence.

    Returns
    -------
    DataFrame
        Validated candidate table; ``run_id``, in the index too, says what the row is.

    Raises
    ------
    ValueError
        When a value or range is no number, not positive, empty or the wrong way round.

    Warns
    -----
    RunTableWarning
        When combinations are left out because the warm-up (and cooldown) is longer than the run,
        or two runs would be the same.

    Examples
    --------
    >>> runs = pool(n_params=[1e7, 3e7], tokens=2e9, batch_tokens=2.5e5, peak_lr=(1e-4, 1e-2),
    ...             warmup=[100, 0.1], schedule=["cosine", "wsd"])
    >>> len(runs), runs["warmup_steps"].unique().tolist()
    (40, [100.0, 800.0])
    """
    if n is not None and not (isinstance(n, int | np.integer) and n >= 1):
        raise ValueError(f"n is {n!r}: it must be an integer of at least 1, or None for the grid")
    if not (isinstance(points, int | np.integer) and points >= 2):
        raise ValueError(f"points is {points!r}: it must be an integer of at least 2")
    if not 0 <= min_lr < 1:
        raise ValueError(f"min_lr is {min_lr!r}: it is a share of the peak, in [0, 1)")
    schedules = [schedule] if isinstance(schedule, str) else list(schedule)
    more = {"polygon", "array"} & {str(s).lower() for s in schedules}
    if more or not schedules:
        raise ValueError(
            f"schedule is {schedule!r}: give names of schedules other than 'polygon' and 'array', "
            "which need columns of their own; write those rows by hand"
        )
    axes: dict[str, Choice] = {
        "n_params": n_params,
        "tokens": tokens,
        "batch_tokens": batch_tokens,
        "peak_lr": peak_lr,
        "warmup": warmup,
        "cooldown": cooldown,
    }
    axes = {name: _numeric(choice) for name, choice in axes.items()}
    for name, choice in axes.items():
        _check(name, choice)
    if not any(str(s).lower().replace("_", "-").startswith("wsd") for s in schedules):
        axes["cooldown"] = 0.5  # not used, so it must not multiply the grid
    rows = _grid(axes, schedules, points) if n is None else _sobol(axes, schedules, n, random_seed)
    table = _complete(rows, min_lr)
    same = table.duplicated()
    table = table[~same].reset_index(drop=True)
    fits = table["warmup_steps"] < table["cooldown_start_step"].fillna(table["steps"])
    left_out = int((~fits).sum() + same.sum())
    if left_out:
        if not fits.any():
            raise ValueError(
                "no run is left: in every combination the warm-up (with the cooldown) is longer "
                "than the run; give warmup as a share of the steps"
            )
        warnings.warn(
            f"{left_out} of {left_out + int(fits.sum())} combinations are left out: the warm-up "
            "(with the cooldown) is longer than the run, or the run is there already",
            RunTableWarning,
            stacklevel=2,
        )
    table = table[fits].drop(columns="steps")
    table.insert(0, "run_id", _names(table))
    return read_candidates(table.set_index("run_id", drop=False).rename_axis(None))


def _names(table: pd.DataFrame) -> list[str]:
    """Settings of each row in few letters, numbered where they are too close to tell apart."""
    names = [
        f"{r.schedule}-N{short(r.n_params)}-D{short(r.tokens)}-lr{rate(r.peak_lr)}-w{r.warmup_steps:g}"
        for r in table.itertuples()
    ]
    if len(set(names)) < len(names):
        names = [f"{name}-{i}" for i, name in enumerate(names)]
    return names


def default_pool(runs: Source, decide: Source) -> pd.DataFrame:
    """Build a pool of runs like those already made, for choosing among ``decide`` (own choice).

    Three model sizes and token budgets of the table (least, middle, most), where together they
    cost no more than its dearest run; five peak LRs over the range of the runs that finished; the
    10, 50 and 90 % points of the warm-up's share; the schedule families of the table and of the
    candidates.

    Parameters
    ----------
    runs : DataFrame, path or list of dict
        Run table, as `read_runs` takes it.
    decide : DataFrame, path or list of dict
        Candidates, as `read_candidates` takes them.

    Returns
    -------
    DataFrame
        Candidate table, rows named by what they are.

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> runs = bo.datasets.load("pocket")
    >>> table = default_pool(runs, runs.iloc[:2])
    >>> len(table), table.index[0]
    (120, 'linear-N10.3k-D1.23M-lr3e-3-w43')
    """
    runs, decide = read_runs(runs, min_runs=1), read_candidates(decide)
    finished = runs[~runs["diverged"]]
    dearest = (runs["n_params"] * runs["tokens"]).max()
    families = {*finished["schedule"], *decide["schedule"]} - {"polygon", "array"}
    lr = finished["peak_lr"].min(), finished["peak_lr"].max()
    share = (finished["warmup_steps"] / finished["steps"]).clip(upper=0.5)
    stable = decide[decide["schedule"].str.startswith("wsd")]
    cooldown = (1 - stable["cooldown_start_step"] / stable["steps"]).clip(0.05, 0.95).median()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunTableWarning)  # combinations left out are no loss here
        table = pool(
            n_params=_spread(finished["n_params"]),
            tokens=_spread(finished["tokens"]),
            batch_tokens=float(finished["batch_tokens"].median()),
            peak_lr=lr if lr[0] < lr[1] else lr[0],
            warmup=sorted({round(float(q), 4) for q in share.quantile([0.1, 0.5, 0.9])}),
            schedule=sorted(families) or "linear",
            cooldown=0.2 if np.isnan(cooldown) else float(cooldown),
        )
    return table[table["n_params"] * table["tokens"] <= dearest * (1 + 1e-9)]


def stage_pool(
    decide: Source, *, shares: Sequence[float] = (1.0, 0.5, 0.25), copies: int = 2
) -> pd.DataFrame:
    """Build a pool of runs of a later stage: the candidates, whole and shorter (own choice).

    A shorter run has the schedule of its candidate over fewer steps: warm-up, corners and decay
    shrink in proportion, peak LR and batch stay. All start from the checkpoint, so a run costs its
    own tokens.

    Parameters
    ----------
    decide : DataFrame, path or list of dict
        Candidates of the stage, as `read_candidates` takes them.
    shares : sequence of float
        Of the candidates' steps, in (0, 1]. Runs of schedule "array" are taken whole only.
    copies : int
        Seeds of each.

    Returns
    -------
    DataFrame
        Candidate table, rows named by candidate, length and seed; the column ``candidate`` holds
        the candidate's label.

    Raises
    ------
    ValueError
        When a share or the number of copies is out of range.

    Examples
    --------
    >>> base = {"n_params": 1e8, "tokens": 1e9, "batch_tokens": 1e6, "peak_lr": 1e-3,
    ...         "warmup_steps": 100, "schedule": "linear", "run_id": "a"}
    >>> stage_pool([base], copies=1)[["steps", "warmup_steps"]]
              steps  warmup_steps
    a        1000.0         100.0
    a, 50 %   500.0          50.0
    a, 25 %   250.0          25.0
    """
    if not all(0 < share <= 1 for share in shares):
        raise ValueError(f"shares are {shares!r}: each must be above 0 and at most 1")
    if not (isinstance(copies, int | np.integer) and copies >= 1):
        raise ValueError(f"copies is {copies!r}: it must be an integer of at least 1")
    table = read_candidates(decide)
    kept = [c for c in _OF_STAGE if c in table.columns]
    corners = {"polygon": _CORNERS, "wsd": _CORNERS[1:], "wsd-sqrt": _CORNERS[1:]}
    rows, labels = [], []
    for share in shares:
        for label, candidate in table.iterrows():
            family = candidate["schedule"]
            if family == "array" and share < 1:
                continue
            steps = max(round(candidate["steps"] * share), 1)
            scale = steps / candidate["steps"]
            row = candidate[kept] if family != "array" else candidate.drop("run_id")
            row = row.to_dict() | {"candidate": label, "tokens": steps * candidate["batch_tokens"]}
            for column in ("warmup_steps", *corners.get(family, ())):
                row[column] = float(np.round(candidate[column] * scale))
            if family == "polygon":
                row["plateau_lr"] = candidate["plateau_lr"]
            length = "" if share == 1 else f", {100 * share:g} %"
            for k in range(copies):
                rows.append(row)
                labels.append(f"{label}{length}" + f", run {k + 1}" * (copies > 1))
    made = pd.DataFrame(rows).drop(columns="steps", errors="ignore").assign(run_id=labels)
    return read_candidates(made.set_index("run_id", drop=False).rename_axis(None), warn=False)


def _spread(values: pd.Series) -> list[float]:
    """Least, middle and most of the values there are."""
    seen = np.unique(values.to_numpy(float))
    return sorted({float(seen[i]) for i in (0, len(seen) // 2, len(seen) - 1)})


def _numeric(choice: Any) -> Any:
    """Numbers written as text, such as "1.5B", as numbers; what is none stays for the report."""
    if isinstance(choice, str):
        number = parse(choice, grouped=True)
        return choice if np.isnan(number) else number
    if isinstance(choice, list | tuple):
        return type(choice)(_numeric(v) for v in choice)
    return choice


def _check(name: str, choice: Choice) -> None:
    values = np.atleast_1d(np.asarray(choice, dtype=object))
    try:
        numbers = values.astype(float)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {choice!r}: it must hold numbers only") from None
    is_range = isinstance(choice, tuple)
    if is_range and numbers.size != 2:
        raise ValueError(
            f"{name} is {choice!r}: a tuple is a range (low, high); give a list for single values"
        )
    if numbers.ndim != 1 or not numbers.size:
        raise ValueError(f"{name} is {choice!r}: give a number, a list or a range (low, high)")
    least = 0.0 if name == "warmup" and not is_range else np.finfo(float).tiny
    if not np.all(np.isfinite(numbers) & (numbers >= least)):
        raise ValueError(f"{name} is {choice!r}: values must be positive and finite")
    if name == "cooldown" and numbers.max() >= 1:
        raise ValueError(f"cooldown is {choice!r}: it is a share of the steps, below 1")
    if is_range and not numbers[0] < numbers[1]:
        raise ValueError(f"{name} is {choice!r}: the low end of a range must be below the high end")
    if is_range and name == "warmup" and (numbers[0] < 1) != (numbers[1] < 1):
        raise ValueError(
            f"warmup is {choice!r}: below 1 it is a share, else steps; a range must not mix them"
        )


def _grid(axes: dict[str, Any], schedules: list[str], points: int) -> pd.DataFrame:
    values = [
        np.geomspace(choice[0], choice[1], points)
        if isinstance(choice, tuple)
        else np.atleast_1d(choice)
        for choice in axes.values()
    ]
    return pd.DataFrame(
        list(itertools.product(*values, schedules)), columns=[*axes, "schedule"]
    ).astype({name: float for name in axes})


def _sobol(axes: dict[str, Any], schedules: list[str], n: int, random_seed: int) -> pd.DataFrame:
    free = [k for k, c in axes.items() if isinstance(c, tuple) or np.size(c) > 1]
    dimensions = len(free) + 1
    sobol = qmc.Sobol(dimensions, rng=np.random.default_rng(random_seed))
    u = sobol.random_base2(int(np.ceil(np.log2(max(n, 2)))))[:n]
    out = {}
    for name, choice in axes.items():
        if name not in free:
            out[name] = np.full(n, float(np.atleast_1d(choice)[0]))
            continue
        at = u[:, free.index(name)]
        if isinstance(choice, tuple):
            low, high = np.log(choice)
            out[name] = np.exp(low + at * (high - low))
        else:
            out[name] = np.asarray(choice, dtype=float)[_pick(at, len(choice))]
    out["schedule"] = np.asarray(schedules, dtype=object)[_pick(u[:, -1], len(schedules))]
    return pd.DataFrame(out)


def _pick(u: np.ndarray, count: int) -> np.ndarray:
    return np.minimum((u * count).astype(int), count - 1)


def _complete(rows: pd.DataFrame, min_lr: float) -> pd.DataFrame:
    """Steps, warm-up steps and cooldown of every row; N and warm-up whole numbers."""
    rows = rows.copy()
    rows["n_params"] = rows["n_params"].round()
    rows["steps"] = rows["tokens"] / rows["batch_tokens"]
    share, warm = rows["warmup"] < 1, rows["warmup"]
    rows["warmup_steps"] = np.where(share, (warm * rows["steps"]).round(), warm.round())
    name = rows["schedule"].str.lower().str.replace("_", "-")
    stable = name.str.startswith("wsd")
    rows["cooldown_start_step"] = np.where(
        stable, (rows["steps"] * (1.0 - rows["cooldown"])).round(), np.nan
    )
    rows["min_lr"] = np.where(name == "constant", 0.0, min_lr * rows["peak_lr"])
    return rows.drop(columns=["warmup", "cooldown"])
