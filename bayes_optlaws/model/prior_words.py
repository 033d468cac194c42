"""What each prior is of, in which unit, and where its figures come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

_OWN = "own choice"
_LOGS = "log loss"

WORDS: dict[str, tuple[str, str, str]] = {
    "intercept_sd": ("intercept around the mean log loss of the table", _LOGS, _OWN),
    "coefficient_sd": (
        "sd of the coefficients of a block, one for each block",
        f"{_LOGS} per sd of the feature",
        _OWN,
    ),
    "noise_sd": ("sd over seeds where runs repeat best", _LOGS, _OWN),
    "noise_df": (
        "degrees of freedom of the noise, a Student-t scaled to its sd",
        "1",
        "own choice; 4: Lange 1989",
    ),
    "noise_growth": ("sd of the noise that grows with the settings, on average", _LOGS, _OWN),
    "noise_slope_sd": ("change of the log of that per sd of a setting", "1", _OWN),
    "scale_length": ("length-scale of the discrepancy", "nats of log N and log tokens", _OWN),
    "cell_sd": ("what each (N, tokens) cell has for itself", "share of the discrepancy", _OWN),
    "level_sd": ("sd of the discrepancy in level", _LOGS, _OWN),
    "slope_sd": ("sd of the discrepancy in a slope", f"{_LOGS} per sd of the setting", _OWN),
    "local_sd": ("sd of the local correction, at the mean log LR", _LOGS, _OWN),
    "drift_sd": ("change of d log loss / d log scale", "1 per nat of log N or log tokens", _OWN),
    "effect_sd": ("sd of what a covariate does", f"{_LOGS} per sd of it, or for a level", _OWN),
    "interaction_sd": (
        "sd of its products with scale and settings",
        f"{_LOGS} per nat of scale or sd of the setting",
        _OWN,
    ),
    "group_level_sd": ("sd of the level between groups", _LOGS, _OWN),
    "group_slope_sd": (
        "sd of a group's deviation in slopes over scale and settings",
        f"{_LOGS} per nat of scale or sd of the setting",
        _OWN,
    ),
    "slopes": (
        "d log loss / d log N and d log loss / d log tokens at the table",
        "1",
        "Hoffmann 2022, Kaplan 2020, Besiroglu 2024",
    ),
    "unseen_sd": (
        "effect of a setting that never varied",
        f"{_LOGS} per natural unit",
        _OWN,
    ),
    "untrained_loss": (
        "cap of every predicted loss: that of an untrained model",
        "nats a token",
        "log of a vocabulary of 131,072",
    ),
}
"""Quantity, unit and source of every prior of `bayes_optlaws.Priors`.

0.01 of log loss is one percent of the loss."""

STATED = "stated"
"""Source of a prior that is not the default."""


def prior_table(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> pd.DataFrame:
    """Return the priors as a table.

    Parameters
    ----------
    values, defaults : mapping
        Fields of `bayes_optlaws.Priors` by name, as they are and by default.

    Returns
    -------
    DataFrame
        Index: names; columns ``of``, ``distribution``, ``from`` and ``to`` (90 %), ``unit`` and
        ``source``.
    """
    rows = {}
    for name, value in values.items():
        if name in ("coefficients", "exponents"):
            continue
        what, unit, source = WORDS[name]
        distribution, low, high = _distribution(name, value)
        source = source if value == defaults[name] else STATED
        rows[name] = (what, distribution, low, high, unit, source)
    for name, own in values["coefficients"].items():
        low, high = (None, None) if own.sd is None else own.interval(0.9)
        unit = WORDS["coefficient_sd"][1]
        rows[f"coefficients[{name}]"] = (f"of {name}", own.says, low, high, unit, STATED)
    for group, weights in values["exponents"].items():
        said = "weights " + ", ".join(f"{w:.3g}" for w in weights)
        rows[f"exponents[{group}]"] = (
            f"candidate exponents of {group}", said, None, None, "1", STATED
        )  # fmt: skip
    if not values["exponents"]:
        rows["exponents"] = ("candidate exponents of each group", "equal weights", None, None,
                             "1", _OWN)  # fmt: skip
    columns = ["of", "distribution", "from", "to", "unit", "source"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("prior")


def _distribution(name: str, value: Any) -> tuple[str, float | None, float | None]:
    if name == "untrained_loss":
        return f"at most {value:.4g}", None, None
    if name == "slopes":
        sd = value.relative_sd * abs(value.mean)
        return f"normal({value.mean:g}, {sd:.3g})", *_normal_interval(value.mean, sd)
    if isinstance(value, float | int):
        return f"normal(0, {value:g})", *_normal_interval(0.0, value)
    return f"lognormal({value.median:g}, {value.log_sd:g})", *value.interval(0.9)


def _normal_interval(mean: float, sd: float) -> tuple[float, float]:
    low, high = (float(f"{mean + s * 1.6448536 * sd:.3g}") for s in (-1, 1))
    return low, high
