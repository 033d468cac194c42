"""Which answers move with which prior: power-scaling of each prior (Kallioinen et al. 2024).

A prior is made stronger or weaker by raising its density to a power, without another fit: the draws
are re-weighted, with smoothed weights. The index is the change of an answer's posterior
distribution per doubling of the power, as a distance between distributions; above 0.05 the answer
is said to move (doi:10.1007/s11222-023-10366-5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from arviz_stats import psense

from bayes_optlaws.decision.rank_inputs import priced
from bayes_optlaws.inference.datatree import coefficients
from bayes_optlaws.inference.fitted import FittedLaw, HasFitted, fitted_law
from bayes_optlaws.inference.groups import log_priors
from bayes_optlaws.model.risk import divergence_price
from bayes_optlaws.runs.readers import read_candidates
from bayes_optlaws.text import html

THRESHOLD = 0.05
"""Index from which an answer moves with a prior."""

POWERS = (0.8, 1.25)
"""Powers at which answers are shown: the prior weaker, and stronger."""

GROUPS: dict[str, tuple[str, ...]] = {
    "sizes of the coefficients": ("coefficient_sd", "coefficients", "intercept_sd"),
    "published slopes": ("slopes",),
    "exponents": ("exponents",),
    "noise": ("noise_sd", "noise_growth", "noise_slope_sd"),
    "discrepancy": ("scale_length", "cell_sd", "level_sd", "slope_sd", "local_sd"),
    "drift": ("drift_sd",),
    "risk of divergence": ("divergence",),
}
"""Priors that are scaled together, by fields of `bayes_optlaws.Priors`; the last is that of
`DivergencePriors`."""

_CD = ("chain", "draw")


@dataclass(frozen=True, eq=False, repr=False)
class PriorSensitivity:
    """Answers and how they move with each prior; made by `prior_sensitivity`.

    Attributes
    ----------
    choice : str
        The candidate of lowest mean expected loss, whose answers are followed.
    table : DataFrame
        One row a prior. ``index_p_best``, ``index_loss``: sensitivity of whether the choice is the
        best, and of its expected loss; ``p_best_weaker``, ``p_best_stronger``, ``loss_weaker``,
        ``loss_stronger``: these with the prior at the powers `POWERS`; ``choice_weaker``,
        ``choice_stronger``: the candidate that would be chosen; ``coefficients``: those that
        move; ``moves``: whether an answer of the choice does.
    p_best, loss, loss_sd : float
        As fitted; nats.
    """

    choice: str
    table: pd.DataFrame
    p_best: float
    loss: float
    loss_sd: float

    @property
    def sentences(self) -> list[str]:
        """What moves, in plain English."""
        other = self.table[
            (self.table["choice_weaker"] != self.choice)
            | (self.table["choice_stronger"] != self.choice)
        ]
        moving = list(self.table.index[self.table["moves"]])
        out = []
        if moving:
            said = [
                f"{name} (P(best) {100 * row['p_best_weaker']:.0f} % weaker, "
                f"{100 * row['p_best_stronger']:.0f} % stronger)"
                for name, row in self.table.loc[moving].iterrows()
            ]
            out.append(f"The answer moves with the prior of: {', '.join(said)}.")
        else:
            out.append("Neither P(best) nor the loss of the choice moves with any prior.")
        if len(other):
            out.append(f"Another candidate would be chosen with that of: {', '.join(other.index)}.")
        else:
            out.append(
                f"{self.choice} stays the choice whichever prior is made weaker or stronger."
            )
        return out

    def _repr_html_(self) -> str:
        return html.box(html.paragraphs(self.sentences), html.table(self.table))

    def __repr__(self) -> str:
        """Sentences, then the table."""
        return "\n".join([*self.sentences, self.table.round(3).to_string()])


def prior_sensitivity(
    law: FittedLaw | HasFitted,
    candidates: pd.DataFrame,
    *,
    divergence_loss: float | None = None,
    random_seed: int = 0,
    allow_unconverged: bool = False,
) -> PriorSensitivity:
    """Say which answers about candidates move with which prior.

    Parameters
    ----------
    law : OptLaw or FittedLaw
    candidates : DataFrame
        Candidate table.
    divergence_loss : float, optional
        Loss that a diverged run counts as, nats; by default a property of the run table.
    random_seed : int
    allow_unconverged : bool

    Returns
    -------
    PriorSensitivity

    Raises
    ------
    ConvergenceError
        If the posterior does not pass the gate.

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> law = bo.OptLaw().fit(bo.datasets.load("pocket"))  # doctest: +SKIP
    >>> bo.prior_sensitivity(law, candidates).sentences  # doctest: +SKIP
    """
    law = fitted_law(law)
    law.require_converged(allow_unconverged)
    table = read_candidates(candidates, warn=False)
    price = divergence_price(law.runs) if divergence_loss is None else divergence_loss
    rng = np.random.default_rng(random_seed)
    drawn = law.draw_loss(table, "mean", rng, max_draws=law.draws.n)
    expected = priced(drawn.loss, drawn.risk, price)
    pick = int(np.argmin(expected.mean(axis=0)))
    lowest = expected <= expected.min(axis=1, keepdims=True)
    best = lowest / lowest.sum(axis=1, keepdims=True)
    labels = [str(name) for name in table.index]
    names = [f.name for f in law.encoding.features.features]
    chains = law.sample.chains

    def by_chain(value: np.ndarray) -> np.ndarray:
        return value.reshape(chains, -1, *value.shape[1:])

    answers = xr.Dataset(
        {
            "p_best": (_CD, by_chain(best[:, pick])),
            "loss": (_CD, by_chain(expected[:, pick])),
            "coefficient": ((*_CD, "feature"), by_chain(coefficients(law.encoding, law.draws)[1])),
        },
        coords={"feature": names},
    )
    rows = {}
    known = log_priors(law)
    for group, members in GROUPS.items():
        value = np.sum([known[m] for m in members if m in known], axis=0)
        if np.ndim(value) == 0 or not np.ptp(value) > 0:
            continue  # not in the model, or equal weights, which no power changes
        scaled = xr.Dataset({"prior": (_CD, by_chain(value))})
        tree = xr.DataTree.from_dict({"posterior": answers, "log_prior": scaled})
        with np.errstate(invalid="ignore"):  # an answer that is the same in all draws: no index
            index = psense(tree).fillna(0.0)
        at: dict[str, Any] = {}
        for word, power in zip(("weaker", "stronger"), POWERS, strict=True):
            log_weight = scaled["prior"].azstats.power_scale_lw(alpha=power, dim=list(_CD))
            weight = np.exp(log_weight.to_numpy().ravel())
            weight /= weight.sum()
            at[f"p_best_{word}"] = float(weight @ best[:, pick])
            at[f"loss_{word}"] = float(weight @ expected[:, pick])
            at[f"choice_{word}"] = labels[int(np.argmin(weight @ expected))]
        moved = index["coefficient"].to_numpy()
        order = np.argsort(-moved)
        found = {"index_p_best": float(index["p_best"]), "index_loss": float(index["loss"])}
        rows[group] = found | at | {
            "coefficients": ", ".join(names[j] for j in order if moved[j] >= THRESHOLD),
            "moves": bool(max(found.values()) >= THRESHOLD),
        }  # fmt: skip
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("prior")
    return PriorSensitivity(
        labels[pick], out, float(best[:, pick].mean()), float(expected[:, pick].mean()),
        float(expected[:, pick].std()),
    )  # fmt: skip
