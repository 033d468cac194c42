r"""The whole model with nothing integrated out: what a Bayesian would write first.

`bayes_optlaws.inference.pymc_model` has hyper-parameters alone, and one term for all the rest. Here
every unknown is a variable with a name and named dimensions: intercept, coefficients, exponents,
discrepancy, noise, the observed final losses, and the criterion R with the observed divergences.

.. math::

    k_g &\sim \text{Categorical}(w_g), \qquad
    \beta_j \sim N(0, \tau_{b(j)}^2), \\
    \log L_i &\sim N\Big(\beta_0 + \sum_j \beta_j\, \phi_j(h_i)^{p_{g(j)}} + \delta_i,\;
        \sigma_i^2\Big), \qquad
    D_i \sim \text{Bernoulli}(\operatorname{logistic}(s \log R_i)).

Both models have the same posterior (tests hold evidence and draws to it). This one is slower by
orders of magnitude: coefficients are strongly correlated, and each evaluation visits all
combinations of exponents. It is to be read, changed, and checked against.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.logprob.transforms import Transform

from bayes_optlaws.inference.datatree import cell_labels
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.hyper_variables import discrepancy, effects, noise_variance, positive
from bayes_optlaws.model.divergence import DivergenceData, add_divergence
from bayes_optlaws.model.encoding import RunEncoding
from bayes_optlaws.model.priors import SIGNS, Priors

EXPONENTS = ("summed", "categorical")
"""How exponents stand in the model."""

EVERY_RUN = "started_run"
"""Dimension of all runs of the table, those that diverged included."""


def full_model(law: FittedLaw, *, exponents: str = "summed") -> pm.Model:
    """Write the model of a fitted law with every unknown in it.

    Parameters
    ----------
    law : FittedLaw
    exponents : {"summed", "categorical"}
        ``"categorical"``: a discrete variable for each exponent group, ``exponent_index``, as one
        would write it. ``"summed"``: these are summed out, so that NUTS can sample the model; the
        deterministic ``exponent_weight`` then has their probability given all else.

    Returns
    -------
    pymc.Model
        Free variables ``intercept``, ``coefficient`` (feature), ``coefficient_sd`` (block),
        ``noise_sd``, with transfer those of the discrepancy (``discrepancy`` and
        ``local_correction`` are made of standard normals), and ``divergence_z``; observed
        ``final_loss`` (run; nats a token) and ``diverged`` (started_run). Published slopes are
        observed, too: ``published_slope``, or a potential of that name.

    Raises
    ------
    ValueError
        If ``exponents`` is none of the two.

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> law = bo.OptLaw().fit(bo.datasets.load("pocket"))  # doctest: +SKIP
    >>> full_model(law.fitted).observed_RVs  # doctest: +SKIP
    [final_loss, diverged]
    """
    if exponents not in EXPONENTS:
        raise ValueError(f"exponents must be one of {EXPONENTS}, got {exponents!r}")
    e, data, priors = law.encoding, law.encoding.data, law.priors
    rows, slopes = e.rows(), e.prior_rows[: e.n_slopes]
    with pm.Model(coords=_coords(e)) as model:
        sigma = pt.sqrt(noise_variance(data, priors))[e.measurement.label]
        sigma = sigma / e.measurement.times
        intercept = pm.Normal("intercept", e.centre, priors.intercept_sd)
        coefficient = _coefficient(e, priors)
        shared, others = intercept, []
        if e.transfer:
            fields, local = discrepancy(data, priors)
            fields = pm.Deterministic("discrepancy", fields, dims=("field", "cell"))
            local = pm.Deterministic("local_correction", local, dims="local_function")
            others = [fields.ravel(), local]
        if e.covariates:
            effect = pm.Deterministic("effect", effects(data, priors), dims="effect_column")
            others.append(effect)
        if others:
            shared += pt.dot(rows[:, data.column_block.size :], pt.concatenate(others))
        law_part = _Law(e, rows, coefficient)
        slope_part = _Law(e, slopes, coefficient)
        loss = e.finished["final_loss"].to_numpy(float)
        response = e.prior_response[: e.n_slopes]
        if exponents == "categorical":
            index = _exponents(e)
            mu = shared + law_part.at(index)
            pm.LogNormal("final_loss", mu, sigma, observed=loss, dims="run")
            if e.n_slopes:
                mean = slope_part.at(index)
                pm.Normal("published_slope", mean, 1.0, observed=response, dims="statement")
        else:
            given = data.log_prior + _log_normal(response[:, None], slope_part.every, 1.0)
            if e.n_slopes:
                pm.Potential("published_slope", pt.logsumexp(given))
            mean = (shared + pt.zeros(len(loss)))[:, None] + law_part.every
            _summed_loss(e, mean, sigma, given - pt.logsumexp(given), loss)
        if law.divergence_priors is not None:
            every = _run_by_run(e)
            add_divergence(every, law.divergence_priors, dims=EVERY_RUN)
            log_r = pt.clip(model["divergence_log_r"], -700.0, 700.0)
            pm.Deterministic("R", pt.exp(log_r), dims=EVERY_RUN)
    return model


def _coords(e: RunEncoding) -> dict[str, list]:
    most = max(len(c) for c in e.features.exponents.values())
    coords = e.data.coords | {
        "run": list(e.finished["run_id"]),
        EVERY_RUN: list(e.runs["run_id"]),
        "feature": [f.name for f in e.features.features],
        "exponent_group": list(e.features.groups),
        "exponent_candidate": list(range(most)),
    }
    if e.n_slopes:
        coords["statement"] = list(range(e.n_slopes))
    if e.covariates:
        coords["effect_column"] = list(e.effects.labels(e.finished))
    if e.transfer:
        coords |= {
            "field": list(e.data.fields),
            "cell": cell_labels(e),
            "local_function": list(range(e.data.n_local + sum(e.data.n_drift))),
        }
    return coords


def _coefficient(e: RunEncoding, priors: Priors) -> Any:
    """Coefficients: priors of their own, the wide one of free features, or that of the block."""
    by_block = positive("coefficient_sd", priors.coefficient_sd, "block")
    blocks = list(e.data.coords["block"])
    mean, sd, sign = [], [], []
    for f in e.features.features:
        own = priors.coefficients.get(f.name)
        usual = priors.intercept_sd if f.free else by_block[blocks.index(f.block)]
        mean.append(0.0 if own is None else own.mean)
        sd.append(pt.as_tensor(usual if own is None or own.sd is None else own.sd))
        sign.append(SIGNS[own.sign] if own is not None and own.sign else 0)
    signs = np.array(sign)
    transform = {"default_transform": _Signed(signs)} if signs.any() else {}
    out = pm.Normal("coefficient", np.array(mean), pt.stack(sd), dims="feature", **transform)
    if signs.any():  # for samplers that know nothing of the transform
        pm.Potential("signs", pt.switch(pt.any(out * signs < 0), -np.inf, 0.0))
    return out


class _Signed(Transform):
    """Coefficients of a stated sign as logs of their sizes, the others as they are."""

    name = "signed"

    def __init__(self, signs: np.ndarray) -> None:
        self.signs = signs

    def forward(self, value: Any, *inputs: Any) -> Any:
        free = self.signs == 0
        return pt.switch(free, value, pt.log(pt.switch(free, 1.0, value * self.signs)))

    def backward(self, value: Any, *inputs: Any) -> Any:
        free = self.signs == 0
        return pt.switch(free, value, self.signs * pt.exp(pt.switch(free, 0.0, value)))

    def log_jac_det(self, value: Any, *inputs: Any) -> Any:
        return pt.switch(self.signs == 0, 0.0, value)


class _Law:
    """The law's part of the log loss for every choice of exponents, without the intercept."""

    def __init__(self, e: RunEncoding, rows: np.ndarray, coefficient: Any) -> None:
        tree, feature = e.data.tree, e.features.column_feature
        fixed = tree.common[1:]
        self.n, self.n_candidates = len(rows), tree.n_candidates
        self.fixed = pt.dot(rows[:, fixed], coefficient[feature[fixed]])
        self.parts = []
        for g, (n, width) in enumerate(zip(tree.n_candidates, tree.n_columns, strict=True)):
            columns = tree.columns[g, :n, :width]
            self.parts.append(pt.dot(rows[:, columns], coefficient[feature[columns[0]]]))

    def at(self, index: Any) -> Any:
        """For one candidate of each group, shape (n,)."""
        return self.fixed + sum(part[:, index[g]] for g, part in enumerate(self.parts))

    @property
    def every(self) -> Any:
        """For all combinations, shape (n, n_combinations)."""
        out, size = self.fixed[:, None], 1
        for part, n in zip(self.parts, self.n_candidates, strict=True):
            size *= int(n)
            out = (out[:, :, None] + part[:, None, :]).reshape((self.n, size))
        return out


def _exponents(e: RunEncoding) -> Any:
    """Add the exponent groups as categorical variables; return the chosen candidates."""
    groups = [e.features.exponents[g] for g in e.features.groups]
    most = max(len(c) for c in groups)
    weight, value = np.zeros((len(groups), most)), np.zeros((len(groups), most))
    for g, candidates in enumerate(groups):
        own = e.data.exponent_weights
        weight[g, : len(candidates)] = own[g] if own else 1.0 / len(candidates)
        value[g, : len(candidates)] = candidates
    index = pm.Categorical("exponent_index", p=weight, dims="exponent_group")
    chosen = pt.as_tensor(value)[np.arange(len(groups)), index]
    pm.Deterministic("exponent", chosen, dims="exponent_group")
    return index


def _log_normal(value: Any, mean: Any, sd: Any) -> Any:
    """Log density of independent normals, summed over the first axis."""
    z = (value - mean) / sd
    return -0.5 * pt.sum(z**2 + np.log(2.0 * np.pi) + 2.0 * pt.log(sd), axis=0)


def _summed_loss(e: RunEncoding, mean: Any, sigma: Any, log_weight: Any, loss: np.ndarray) -> None:
    """Add the observed losses, a mixture over the combinations of exponents that runs share."""
    learned = log_weight + _log_normal(np.log(loss)[:, None], mean, sigma[:, None])
    learned = learned - pt.logsumexp(learned)
    shape = tuple(int(n) for n in e.data.tree.n_candidates)
    box = pt.exp(learned).reshape(shape)
    by_group = []
    for g, n in enumerate(shape):
        others = [i for i in range(len(shape)) if i != g]
        by_group.append(pt.pad(box.sum(axis=others), (0, max(shape) - n)))
    pm.Deterministic(
        "exponent_weight", pt.stack(by_group), dims=("exponent_group", "exponent_candidate")
    )

    def logp(value: Any, mean: Any, sigma: Any, log_weight: Any, learned: Any) -> Any:
        by_combination = _log_normal(pt.log(value)[:, None], mean, sigma[:, None])
        return pt.logsumexp(log_weight + by_combination) - pt.sum(pt.log(value))

    def random(
        mean: np.ndarray, sigma: np.ndarray, log_weight: np.ndarray, learned: np.ndarray,
        rng: Any = None, size: Any = None,
    ) -> np.ndarray:  # fmt: skip
        # replicated runs have the exponents that were learned, not new ones
        k = rng.choice(learned.size, p=np.exp(learned) / np.exp(learned).sum())
        return np.exp(mean[:, k] + sigma * rng.standard_normal(sigma.shape))

    pm.CustomDist(
        "final_loss", mean, sigma, log_weight, learned, logp=logp, random=random,
        signature="(n,k),(n),(k),(k)->(n)", observed=loss, dims="run",
    )  # fmt: skip


def _run_by_run(e: RunEncoding) -> DivergenceData:
    """Return the divergence data with one row a run, in the order of the table."""
    scale = e.divergence.scale
    rows = scale.rows(scale.inputs(e.runs))
    return DivergenceData(rows, np.ones(len(rows)), e.runs["diverged"].to_numpy(float), scale)
