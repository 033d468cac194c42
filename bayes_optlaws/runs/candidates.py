"""Candidates by crossing settings: one base run, and what is to be varied."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bayes_optlaws.runs.columns import is_blank
from bayes_optlaws.runs.faults import abbreviate
from bayes_optlaws.runs.names import role_of, schedule_of
from bayes_optlaws.runs.readers import read_candidates
from bayes_optlaws.text.numbers import count, parse, rate, short

__all__ = ["candidates"]

Setting = float | str | Sequence[float | str]
"""One value or several; numbers may be text such as "1e-3", "1.5B" or "2%"."""

_NUMBERS = {
    "n_params", "tokens", "batch_tokens", "batch_sequences", "sequence_length", "steps", "peak_lr",
    "warmup", "warmup_steps", "warmup_share", "min_lr", "min_lr_share", "cooldown_share",
    "cooldown_steps", "cooldown_start_step",
}  # fmt: skip
_VARIED = ("schedule", "n_params", "tokens", "batch_tokens", "peak_lr", "warmup", "cooldown",
           "min_lr_share")  # fmt: skip


def candidates(
    base: Mapping[str, object] | pd.Series | pd.DataFrame,
    *,
    peak_lr: Setting | None = None,
    warmup: Setting | None = None,
    schedule: Setting | None = None,
    cooldown: Setting | None = None,
    min_lr_share: Setting | None = None,
    n_params: Setting | None = None,
    tokens: Setting | None = None,
    batch_tokens: Setting | None = None,
) -> pd.DataFrame:
    """Cross settings to a table of candidates, named by what differs.

    Parameters
    ----------
    base : mapping, Series or DataFrame of one row
        What all candidates share: model size, tokens, batch and whatever is not varied, under the
        names of the run table or those that trainers write; a row of a run table, too.
    peak_lr : number, text or list
    warmup : number, text or list
        Below 1 a share of the steps, else steps.
    schedule : str or list of str
        As in the run table, save "polygon" and "array", which need more columns.
    cooldown : number, text or list
        Share of the steps spent cooling down, for wsd and wsd-sqrt only (default 0.2).
    min_lr_share : number, text or list
        Final learning rate over the peak.
    n_params, tokens, batch_tokens : number, text or list

    Returns
    -------
    DataFrame
        Validated candidates, named in index and ``run_id`` by the settings that differ.

    Raises
    ------
    ValueError
        When a setting is no number or out of range, or is neither varied nor in the base.
    RunTableError
        When a combination is no possible run, as with a warm-up longer than it.

    Examples
    --------
    >>> base = {"n_params": "1.5B", "tokens": "30B", "batch_tokens": "1M"}
    >>> plan = candidates(base, peak_lr=["1e-3", 2e-3], warmup=0.02, schedule=["cosine", "wsd"])
    >>> plan[["peak_lr", "warmup_steps", "cooldown_start_step"]]
                   peak_lr  warmup_steps  cooldown_start_step
    cosine lr 1e-3   0.001         600.0                600.0
    cosine lr 2e-3   0.002         600.0                600.0
    wsd lr 1e-3      0.001         600.0              24000.0
    wsd lr 2e-3      0.002         600.0              24000.0
    """
    given = {
        "schedule": schedule, "n_params": n_params, "tokens": tokens, "batch_tokens": batch_tokens,
        "peak_lr": peak_lr, "warmup": warmup, "cooldown": cooldown, "min_lr_share": min_lr_share,
    }  # fmt: skip
    shared = _base(base)
    axes = {name: _values(name, v) for name, v in given.items() if v is not None}
    for name in _VARIED:
        if name not in axes:
            axes[name] = [_of_base(shared, name, varied=axes)]
    rows = [
        _row(dict(zip(_VARIED, combination, strict=True)))
        for combination in itertools.product(*(axes[name] for name in _VARIED))
    ]
    table = pd.DataFrame(rows).drop_duplicates(ignore_index=True)
    extra = {k: v for k, v in shared.items() if k in ("group", "seed", "stage", "parent")}
    table = table.assign(run_id=_names(table), **extra)
    keep = ["run_id", *(c for c in table.columns if c not in ("run_id", "warmup", "cooldown"))]
    return read_candidates(table[keep].set_index("run_id", drop=False).rename_axis(None))


def _base(base: object) -> dict[str, Any]:
    """Role -> value of what is shared; numbers parsed, blanks left out."""
    if isinstance(base, pd.DataFrame):
        if len(base) != 1:
            raise ValueError(f"base has {len(base)} rows: give one, such as runs.iloc[0]")
        base = base.iloc[0]
    if not isinstance(base, Mapping | pd.Series):
        raise TypeError(f"base is a {type(base).__name__}: give a dict or one row of a table")
    shared: dict[str, Any] = {}
    for name, value in dict(base).items():
        known = role_of(name) if isinstance(name, str) else None
        if known is None or is_blank(np.array([value], dtype=object))[0]:
            continue
        role = known[0]
        if role in _NUMBERS:
            value = _number(str(name), value)
        if role not in shared or name == role:
            shared[role] = value
    if "batch_tokens" not in shared and {"batch_sequences", "sequence_length"} <= set(shared):
        shared["batch_tokens"] = shared["batch_sequences"] * shared["sequence_length"]
    if "steps" in shared and "batch_tokens" in shared:
        shared.setdefault("tokens", shared["steps"] * shared["batch_tokens"])
    return shared


def _of_base(shared: Mapping[str, object], name: str, *, varied: Mapping) -> object:
    """Value of a setting that is not varied."""
    if name == "cooldown":
        return _cooldown(shared)
    if name == "min_lr_share":
        return _end_share(shared)
    roles = ("warmup_steps", "warmup_share", "warmup") if name == "warmup" else (name,)
    for role in roles:
        if role in shared:
            value = shared[role]
            return _values("schedule", value)[0] if name == "schedule" else value
    have = sorted({*shared, *varied})
    raise ValueError(
        f"{name} is neither in the base nor given: add it to either; there are {', '.join(have)}"
    )


def _cooldown(shared: Mapping[str, Any]) -> float:
    """Share of the steps that a cool-down takes."""
    if "cooldown_share" in shared:
        return shared["cooldown_share"]
    steps = np.nan
    if {"tokens", "batch_tokens"} <= set(shared):
        steps = shared["tokens"] / shared["batch_tokens"]
    if "cooldown_steps" in shared:
        return shared["cooldown_steps"] / steps
    if str(shared.get("schedule", "")).startswith("wsd") and "cooldown_start_step" in shared:
        return 1.0 - shared["cooldown_start_step"] / steps
    return 0.2


def _end_share(shared: Mapping[str, Any]) -> float:
    """Learning rate at the end over the peak."""
    if "min_lr_share" in shared:
        return shared["min_lr_share"]
    if "peak_lr" in shared and "min_lr" in shared:
        return shared["min_lr"] / shared["peak_lr"]
    if not shared.get("min_lr"):
        return 0.0
    raise ValueError("base gives min_lr without peak_lr: give min_lr_share, its share")


def _values(name: str, setting: object) -> list:
    """One value or several, parsed."""
    several = setting if isinstance(setting, list | tuple | np.ndarray | pd.Series) else [setting]
    if not len(several):
        raise ValueError(f"{name} is empty: give one value or more")
    if name != "schedule":
        values = [_number(name, v) for v in several]
        top = 1.0 if name in ("cooldown", "min_lr_share") else np.inf
        for value in values:
            least_ok = value >= 0 if name in ("warmup", "min_lr_share") else value > 0
            if not (least_ok and value < top):
                limit = ", below 1" if top == 1.0 else ""
                raise ValueError(f"{name} is {value:g}: it must be positive and finite{limit}")
        return values
    kinds = []
    for word in several:
        known = schedule_of(word)
        kind = known[0] if known else abbreviate(word)
        if known is None or kind in ("polygon", "array"):
            raise ValueError(
                f"schedule is {kind!r}: it must be linear, cosine, wsd, wsd-sqrt or constant; "
                "write polygon and array rows by hand"
            )
        kinds.append(kind)
    return kinds


def _number(name: str, value: object) -> float:
    number = parse(value.item() if isinstance(value, np.generic) else value, grouped=True)
    if not np.isfinite(number):
        raise ValueError(
            f"{name} is {abbreviate(value)!r}: it must be a number such as 1e-3 or 1.5B"
        )
    return number


def _row(setting: dict) -> dict[str, object]:
    """One candidate; the settings that its schedule does not have are left out."""
    steps = setting["tokens"] / setting["batch_tokens"]
    warmup = setting["warmup"]
    stable = setting["schedule"].startswith("wsd")
    flat = setting["schedule"] == "constant"
    return {
        **{k: setting[k] for k in ("n_params", "tokens", "batch_tokens", "peak_lr", "schedule")},
        "warmup": warmup,
        "warmup_steps": float(round(warmup * steps) if warmup < 1 else warmup),
        "cooldown": setting["cooldown"] if stable else np.nan,
        "cooldown_start_step": float(round(steps * (1 - setting["cooldown"]))) if stable else None,
        "min_lr": 0.0 if flat else setting["min_lr_share"] * setting["peak_lr"],
    }


def _names(table: pd.DataFrame) -> list[str]:
    """The settings that differ, in few words."""
    words: dict[str, Callable[[Any], str]] = {
        "schedule": str,
        "n_params": lambda v: f"N {short(v)}",
        "tokens": lambda v: f"D {short(v)}",
        "batch_tokens": lambda v: f"batch {short(v)}",
        "peak_lr": lambda v: f"lr {rate(v)}",
        "warmup": lambda v: f"warm-up {100 * v:.3g} %" if 0 < v < 1 else f"warm-up {count(v)}",
        "cooldown": lambda v: "" if np.isnan(v) else f"cool-down {100 * v:.3g} %",
        "min_lr": lambda v: f"end lr {rate(v)}",
    }
    share = (table["min_lr"] / table["peak_lr"]).round(9)
    differ = [c for c in words if c != "min_lr" and table[c].nunique() > 1]
    if share.nunique() > 1:
        differ.append("min_lr")
    differ = differ or ["schedule", "peak_lr", "warmup"]
    names = [" ".join(filter(None, (words[c](row[c]) for c in differ))) for _, row in
             table.iterrows()]  # fmt: skip
    if len(set(names)) < len(names):  # settings that three digits do not tell apart
        names = [f"{name} #{i}" for i, name in enumerate(names)]
    return names
