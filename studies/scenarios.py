"""What is fitted and what is tested: near the table and far from it; and by which methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bayes_optlaws import baselines, datasets
from bayes_optlaws.runs.readers import read_runs

LAW, PLAIN = "opt-law", "opt-law without transfer"

PROCESSES = ("gaussian-process", "gp-linear-scale", "gp-linear-settings")
"""The Gaussian processes: all have a linear mean in logs."""

RIVALS = (*PROCESSES, "quadratic", "step-law", "step-law-gp", "generalized", "simplified",
          "chinchilla")  # fmt: skip
"""Baselines that the law is compared with, in the order of the tables."""


@dataclass(frozen=True)
class Study:
    """One evaluation: a table, what is fitted and what is tested.

    Attributes
    ----------
    name, title : str
    table : str
        Name of the table in `bayes_optlaws.datasets`.
    split : callable
        From the validated runs to keyword arguments of `bayes_optlaws.evaluation.held_out`.
    group : str, optional
        The group of runs that is used.
    extrapolates : bool
        Whether scales or schedules are tested that were not fitted.
    """

    name: str
    title: str
    table: str
    split: Callable[[pd.DataFrame], dict[str, Any]]
    group: str | None = None
    extrapolates: bool = True

    def runs(self, folder: str | None = None) -> pd.DataFrame:
        """Validated run table; `folder` holds the public tables."""
        return read_runs(datasets.load(self.table, folder=folder), group=self.group)


def _families(runs: pd.DataFrame) -> dict[str, Any]:
    """Fit without a schedule family, test that family at 124M."""
    size = np.isclose(runs["n_params"], 123587328)
    kind = runs["schedule"].to_numpy(object)
    return {
        "test": {
            f"without {name}": (kind != name, (kind == name) & size)
            for name in sorted(set(kind[size]))
        }
    }


def _sizes(runs: pd.DataFrame) -> dict[str, Any]:
    """Fit 124M, test 208M."""
    n = runs["n_params"]
    return {"test": {"208M": (np.isclose(n, 123587328), np.isclose(n, 208540416))}}


def _above(column: str, limit: float) -> Callable[[pd.DataFrame], dict[str, Any]]:
    """Test all runs with more of a column."""
    return lambda runs: {"test": runs[column] > limit}


NEAR = (
    Study(
        "steplaw-n", "Step Law: fit N <= 0.43B, test 0.54B and 1.07B", "steplaw",
        _above("n_params", 0.45e9),
    ),
    Study(
        "steplaw-d", "Step Law: fit D < 30B tokens, test the longer", "steplaw",
        lambda r: {"test": r["tokens_nominal"] >= 30e9},
    ),
    Study("pocket-n", "Pocket: largest N", "pocket", lambda r: {"protocol": "hold-out-largest-n"}),
    Study("pocket-d", "Pocket: largest D", "pocket", lambda r: {"protocol": "hold-out-largest-d"}),
    Study(
        "marin-n", "Marin: fit N <= 0.54B, test 1.2B", "marin", _above("n_params", 1e9),
    ),
    Study("schaipp-n", "Schaipp: fit 124M, test 208M", "schaipp", _sizes, "slimpajama"),
    Study(
        "schaipp-family", "Schaipp: a schedule family not fitted, 124M", "schaipp", _families,
        "slimpajama",
    ),
    Study(
        "pocket-5fold", "Pocket: 5 folds", "pocket", lambda r: {"k": 5}, extrapolates=False
    ),
    Study(
        "steplaw-5fold", "Step Law: 5 folds", "steplaw", lambda r: {"k": 5}, extrapolates=False
    ),
)  # fmt: skip
"""Within a step or two of the table, in the order in which they are run."""

FAR = (
    Study("openlm-c4-n", "open_lm on C4: fit N <= 0.2B, test to 6.9B", "openlm",
          _above("n_params", 2e8), "c4_original"),
    Study("openlm-rw-m", "open_lm on RefinedWeb: fit up to 4 x 20 N tokens, test 8 to 32", "openlm",
          lambda r: {"test": r["multiplier"] >= 8}, "rw_original"),
    Study("openlm-rw-n", "open_lm on RefinedWeb: fit N <= 1B, test to 6.9B", "openlm",
          _above("n_params", 1e9), "rw_original"),
    Study("chinchilla-n", "Chinchilla: fit N <= 3B, test to 16B", "chinchilla-epoch",
          _above("n_params", 3e9)),
    Study("chinchilla-c", "Chinchilla: fit C <= 2e20 FLOP, test to 1e22", "chinchilla-epoch",
          _above("flops", 2e20)),
    Study("olmo-n", "OLMo ladder: fit N <= 1B, test 1.3B and 3.2B", "olmo-ladder",
          _above("n_params", 1e9)),
    Study("gemstones-n", "Gemstones: fit N <= 1B, test to 2B", "gemstones",
          _above("n_params", 1e9)),
    Study("fineweb-c", "Loss-to-loss, FineWeb-Edu: fit C <= 2e19 FLOP, test to 1e21",
          "loss-to-loss", _above("iso_flop", 2e19), "fineweb-edu-100b"),
    Study("proofpile-c", "Loss-to-loss, Proof-Pile: fit C <= 2e19 FLOP, test to 1e21",
          "loss-to-loss", _above("iso_flop", 2e19), "proof-pile-2"),
    Study("smollm-c", "Loss-to-loss, SmolLM: fit C <= 2e18 FLOP, test to 1e21", "loss-to-loss",
          _above("iso_flop", 2e18), "smollm-corpus"),
    Study("cifar5m-n", "CIFAR-5M: fit N <= 50M, test 79M", "cifar5m", _above("n_params", 5e7)),
)  # fmt: skip
"""About a decade and more beyond the table."""


def methods(runs: pd.DataFrame, names: Sequence[str] = (LAW, PLAIN, *RIVALS)) -> dict[str, Any]:
    """Return the methods of a study, not fitted, by name.

    Parameters
    ----------
    runs : DataFrame
        Validated run table, which decides what an option must be.
    names : sequence of str
        Of `LAW`, `PLAIN` and `bayes_optlaws.baselines.available`.

    Examples
    --------
    >>> from bayes_optlaws import datasets
    >>> list(methods(datasets.load("pocket"), ["chinchilla", "quadratic"]))
    ['chinchilla', 'quadratic']
    """
    out: dict[str, Any] = {}
    for name in names:
        if name in (LAW, PLAIN):
            from bayes_optlaws.law import OptLaw  # here, so that tables and plots load no PyMC

            out[name] = OptLaw(transfer=name == LAW)
        elif name == "generalized":
            out[name] = baselines.GeneralizedOptLaw(batch=runs["batch_tokens"].nunique() > 1)
        else:
            out[name] = baselines.get(name)
    return out
