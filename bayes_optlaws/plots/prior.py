"""Plot of what the priors say, in terms of losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_optlaws.inference.fitted import FittedLaw, HasFitted, fitted_law
from bayes_optlaws.inference.prior import PRIOR_DRAWS, prior_law
from bayes_optlaws.plots.style import BLUE, GREY
from bayes_optlaws.runs.readers import read_candidates
from bayes_optlaws.text.numbers import scale_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANGES: dict[str, tuple[str, float]] = {
    "4 x parameters": ("n_params", 4.0),
    "4 x tokens": ("tokens", 4.0),
    "2 x peak LR": ("peak_lr", 2.0),
    "4 x warm-up": ("warmup_steps", 4.0),
    "2 x batch": ("batch_tokens", 2.0),
}
"""Changes of a middling run whose effect on the loss is drawn."""

_WIDE, _NARROW = "0.86", "0.72"


def prior_check(
    law: FittedLaw | HasFitted,
    *,
    prob: float = 0.9,
    draws: int = PRIOR_DRAWS,
    random_seed: int = 0,
) -> Figure:
    """Plot what the priors say of losses beside what the runs say.

    Left: losses of runs like those of the table, by (N, tokens) cell, drawn from the prior, and
    those observed. A prior is wide there on purpose: an observed loss outside it would be a
    prior that contradicts the runs. Right: by how much the loss of a middling run changes with
    one of its settings, by prior and posterior.

    Parameters
    ----------
    law : OptLaw or FittedLaw
    prob : float
        Probability inside the wide bands and the intervals; the narrow bands hold half.
    draws, random_seed : int
        Of the prior.

    Returns
    -------
    matplotlib Figure
    """
    import matplotlib.pyplot as plt

    law = fitted_law(law)
    before = prior_law(
        law.encoding, law.priors, law.divergence_priors, draws=draws, random_seed=random_seed
    )
    finished = law.encoding.finished
    groups = finished.groupby(["n_params", "tokens"]).indices
    rng = np.random.default_rng(random_seed)
    height = 1.6 + 0.42 * max(len(groups), len(CHANGES))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, height), layout="constrained")
    loss = before.draw_loss(finished, "new_run", rng, max_draws=draws).loss
    observed = finished["final_loss"].to_numpy(float)
    for place, rows in enumerate(groups.values()):
        _bands(left, place, loss[:, rows], prob, first=not place)
        left.plot(
            observed[rows], np.full(len(rows), place), "|", color=BLUE, markersize=9,
            label=None if place else "observed runs",
        )  # fmt: skip
    left.set_yticks(range(len(groups)), [scale_label(*cell) for cell in groups])
    left.set_xscale("log")
    left.xaxis.set_major_formatter("{x:g}")
    left.xaxis.set_minor_formatter("")
    left.set(xlabel="final loss, nats per token", title="losses before any was read")

    table = _changed(finished)
    scale = table.iloc[0][["n_params", "tokens"]]
    change = {
        word: law_.draw_loss(table, "mean", rng, max_draws=draws).loss
        for word, law_ in (("prior", before), ("posterior", law))
    }
    for place in range(1, len(table)):
        moved = {word: value[:, place] - value[:, 0] for word, value in change.items()}
        _bands(right, place, moved["prior"], prob, first=place == 1)
        low, middle, high = np.quantile(moved["posterior"], [(1 - prob) / 2, 0.5, (1 + prob) / 2])
        right.hlines(place, low, high, color=BLUE, linewidth=2.5)
        right.plot(
            middle, place, "o", color=BLUE, markersize=5,
            label=f"posterior, {100 * prob:g} %" if place == 1 else None,
        )  # fmt: skip
    right.axvline(0.0, color=GREY, linewidth=1)
    right.set_yticks(range(1, len(table)), list(table.index[1:]))
    right.set(
        xlabel=f"change of the expected loss, nats ({scale_label(*scale)})",
        title="what a change does",
    )
    for ax in (left, right):
        ax.invert_yaxis()
        ax.grid(axis="x", alpha=0.3)
        ax.legend(
            fontsize="small", frameon=False, loc="upper center", ncols=3,
            bbox_to_anchor=(0.5, -0.16),
        )  # fmt: skip
    return figure


def _bands(ax: Axes, place: int, values: np.ndarray, prob: float, *, first: bool) -> None:
    for share, colour in ((prob, _WIDE), (0.5, _NARROW)):
        low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2])
        label = f"prior, {100 * share:g} %" if first else None
        ax.barh(place, high - low, left=low, height=0.7, color=colour, label=label)


def _changed(finished: pd.DataFrame) -> pd.DataFrame:
    """A linear run of the middling setting of the table, then that with one setting changed."""
    middle = {
        name: float(np.exp(np.log(finished[name].clip(lower=1e-12)).median()))
        for name in ("n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps")
    }
    rows = {"as it is": middle}
    for label, (name, factor) in CHANGES.items():
        rows[label] = middle | {name: middle[name] * factor}
    table = pd.DataFrame.from_dict(rows, orient="index").assign(schedule="linear", min_lr=0.0)
    steps = table["tokens"] / table["batch_tokens"]
    table["warmup_steps"] = np.minimum(table["warmup_steps"], 0.5 * steps)
    return read_candidates(table, warn=False)
