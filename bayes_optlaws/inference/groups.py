"""A fitted law in the layout that ArviZ's functions expect, one DataTree.

=========================  ======================================================================
group                      holds
=========================  ======================================================================
posterior                  the law, its noise and the risk: what summaries and plots show
posterior_discrepancy      how the law may be wrong: its scales and its values
posterior_divergence       the risk's parameters as they were sampled, and its correction
posterior_predictive       log losses of replicated runs, one for each run that finished
log_likelihood             log density of each run given all others, coefficients integrated out
log_prior                  log prior density, one variable a prior
prior, prior_predictive    the same variables before a loss is read
observed_data              log losses
constant_data              settings of the runs; candidate exponents and their prior weights
sample_stats               of the sampler; ``divergence_stats`` for the risk
=========================  ======================================================================

Dimensions are chain, draw, run, feature, exponent_group, block and, in the other groups, those of
what they hold. Groups that cost time are computed when they are first read, and kept.

The pointwise ``log_likelihood`` is what leave-one-out cross-validation needs: given
hyper-parameters and exponents the coefficients are integrated out, so its terms are densities of
each run given all others, and their sum is a pseudo-likelihood. Power-scaling of the likelihood
(``psense``) scales that. The prior of a positive parameter is that of its logarithm, as it is
stated: scaled, it becomes wider or narrower around its median.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import arviz_base
import numpy as np
import xarray as xr
from scipy.stats import norm

from bayes_optlaws.inference.chains import thinned
from bayes_optlaws.inference.datatree import coefficients
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.fitted import CHUNK, FittedLaw
from bayes_optlaws.inference.lazy import computed
from bayes_optlaws.inference.loo import loo_density
from bayes_optlaws.inference.prior import PRIOR_DRAWS, prior_law

MOST_VALUES = 50_000_000
"""Groups with a value for each draw and run are left out where there would be more than this."""

LAW = ("intercept", "coefficient", "exponent", "coefficient_sd", "noise_sd", "noise_growth")
RISK = ("kappa", "gamma", "c1", "c2", "c3", "slope")

NAME = "log_loss"
"""Name of the modelled quantity in all groups: the log of the final loss."""

_CD = ("chain", "draw")
_KEY = "arviz"


def arviz_tree(law: FittedLaw) -> xr.DataTree:
    """Return the DataTree of a fitted law; the module's text lists its groups.

    ArviZ draws at most ``rcParams["plot.max_subplots"]`` panels, 40 unless that was changed, and
    a law has more coefficients and exponents than that has room for: the limit is raised to what
    its posterior needs.

    Parameters
    ----------
    law : FittedLaw
    """
    if _KEY not in law.cache:
        law.cache[_KEY] = _tree(law)
    tree = law.cache[_KEY]
    scalars = sum(int(v[0, 0].size) for v in tree["posterior"].data_vars.values())
    if arviz_base.rcParams["plot.max_subplots"] is not None:
        most = max(arviz_base.rcParams["plot.max_subplots"], 2 * scalars)
        arviz_base.rcParams["plot.max_subplots"] = most
    return tree


def _tree(law: FittedLaw) -> xr.DataTree:
    drawn = law.draw_tree
    everything = drawn["posterior"].to_dataset()
    risk = [f"divergence_{name}" for name in RISK]
    main = [n for n in (*LAW, *risk) if n in everything]
    names = [str(n) for n in everything]
    of_risk = [n for n in names if n.startswith("divergence_") and n not in main]
    other = [n for n in names if n not in (*main, *of_risk, "combination")]
    groups = {
        "posterior": _part(everything, main),
        "posterior_discrepancy": _part(everything, other),
        **({"posterior_divergence": _part(everything, of_risk)} if of_risk else {}),
        "log_prior": _log_prior(law, everything.coords),
        **_prior(law, everything, main),
    }
    run = {"run": drawn["observed_data"]["run"].to_numpy()}
    n, chains = run["run"].size, law.sample.chains
    if n * law.draws.n <= MOST_VALUES:
        shape = (chains, law.draws.n // chains, n)
        at = {k: everything.coords[k] for k in _CD} | run
        for name, compute in (
            ("posterior_predictive", _replicated),
            ("log_likelihood", _log_likelihood),
        ):
            value = computed((*_CD, "run"), shape, partial(_kept, law, name, compute))
            groups[name] = xr.Dataset({NAME: value}, coords=at)
    constant = drawn["constant_data"].to_dataset()
    groups["constant_data"] = constant.merge(_candidates(law))
    groups["observed_data"] = drawn["observed_data"].to_dataset()
    for name in ("sample_stats", "divergence_stats"):
        if name in drawn:
            groups[name] = thinned(drawn[name].to_dataset(), law.draws.n // chains)
    return xr.DataTree.from_dict(groups)


def _part(everything: xr.Dataset, names: list[str]) -> xr.Dataset:
    part = everything[names]
    dims = set(part.dims)
    return part.drop_vars([c for c in part.coords if not set(part[c].dims) <= dims])


def _kept(law: FittedLaw, name: str, compute: Callable[[FittedLaw], np.ndarray]) -> np.ndarray:
    """Values of a group, computed once."""
    if name not in law.cache:
        value = compute(law)
        value.flags.writeable = False
        law.cache[name] = value
    return law.cache[name]


def _by_chain(law: FittedLaw, value: np.ndarray) -> np.ndarray:
    chains = law.sample.chains
    return value.reshape(chains, law.draws.n // chains, *value.shape[1:])


def _log_likelihood(law: FittedLaw) -> np.ndarray:
    return _by_chain(law, loo_density(law, max_draws=law.draws.n))


def _replicated(law: FittedLaw) -> np.ndarray:
    table = law.encoding.finished
    rng = np.random.default_rng(law.random_seed)
    if law.encoding.measurement.said:
        return _by_chain(law, law.replicated(rng, max_draws=law.draws.n)[1])
    parts = [
        law.draw_loss(table.iloc[i : i + CHUNK], "new_run", rng, max_draws=law.draws.n).loss
        for i in range(0, len(table), CHUNK)
    ]
    return _by_chain(law, np.log(np.hstack(parts)))


def _prior(law: FittedLaw, everything: xr.Dataset, main: list[str]) -> dict[str, xr.Dataset]:
    """Prior of the variables of the posterior, and losses of the runs by it."""
    coords = {"chain": [0], "draw": np.arange(PRIOR_DRAWS)}
    variables = {}
    for name in main:
        dims = tuple(str(d) for d in everything[name].dims)
        shape = (1, PRIOR_DRAWS, *everything[name].shape[2:])
        variables[name] = computed(dims, shape, partial(_prior_values, law, name))
    labels = {c: everything.coords[c] for c in ("feature", "exponent_group", "block")}
    n = len(law.encoding.finished)
    loss = computed((*_CD, "run"), (1, PRIOR_DRAWS, n), partial(_prior_values, law, NAME))
    run = {"run": law.encoding.finished["run_id"].to_numpy()}
    out = {"prior": xr.Dataset(variables, coords=coords | labels)}
    if n * PRIOR_DRAWS <= MOST_VALUES:
        out["prior_predictive"] = xr.Dataset({NAME: loss}, coords=coords | run)
    return out


def _prior_values(law: FittedLaw, name: str) -> np.ndarray:
    def drawn(law: FittedLaw) -> FittedLaw:
        return prior_law(
            law.encoding, law.priors, law.divergence_priors, random_seed=law.random_seed
        )

    if "prior" not in law.cache:
        law.cache["prior"] = drawn(law)
    before = law.cache["prior"]
    if name == NAME:
        return _kept(law, "prior_predictive", lambda _: _replicated(before))
    draws = before.draws
    if name in ("intercept", "coefficient", "exponent"):
        found = coefficients(law.encoding, draws)
        value = found[("intercept", "coefficient", "exponent").index(name)]
        value = value + law.encoding.centre * (name == "intercept")
    elif name in draws.hyper:
        value = draws.hyper[name] if name == "coefficient_sd" else draws.hyper[name][:, 0]
    else:
        value = draws.divergence[name]
    return value[None]


def log_priors(law: FittedLaw) -> dict[str, np.ndarray]:
    """Log prior density of every draw, up to constants, by prior, each of shape (n_draws,).

    Names are those of `bayes_optlaws.Priors`; ``coefficients`` are those with priors of their own,
    ``divergence`` is all of the risk. Priors of coefficients whose sd is learned are not among
    them: it is that sd whose prior is stated.

    Parameters
    ----------
    law : FittedLaw
    """
    e, draws = law.encoding, law.draws
    space = HyperSpace(e.data, law.priors)
    out, start = {}, 0
    for name, size, *_ in space.parts:
        value = draws.hyper[name]
        at = slice(start, start + size)
        value = np.log(value) if space.is_log[start] else value
        out[name] = norm.logpdf(value, space.mean[at], space.sd[at]).sum(axis=1)
        start += size
    if "noise_slope" in out:
        out["noise_slope_sd"] = out.pop("noise_slope")
    with np.errstate(divide="ignore"):
        out["exponents"] = e.data.log_prior[draws.combination]
    out["intercept_sd"] = norm.logpdf(draws.beta[:, 0], 0.0, law.priors.intercept_sd)
    if e.n_slopes:
        error = draws.beta @ e.prior_rows[: e.n_slopes, : draws.beta.shape[1]].T
        out["slopes"] = norm.logpdf(error, e.prior_response[: e.n_slopes]).sum(axis=1)
    _, coefficient, _ = coefficients(e, draws)
    own = []
    for j, feature in enumerate(e.features.features):
        stated = law.priors.coefficients.get(feature.name)
        if stated is not None and stated.sd is not None:
            own.append(norm.logpdf(coefficient[:, j], stated.mean, stated.sd))
    if own:
        out["coefficients"] = np.sum(own, axis=0)
    if "divergence_z" in draws.divergence:
        out["divergence"] = norm.logpdf(draws.divergence["divergence_z"]).sum(axis=1)
    return out


def _log_prior(law: FittedLaw, coords: Mapping[Any, Any]) -> xr.Dataset:
    values = {name: (_CD, _by_chain(law, v)) for name, v in log_priors(law).items()}
    return xr.Dataset(values, coords={k: coords[k] for k in _CD})


def _candidates(law: FittedLaw) -> xr.Dataset:
    """Candidate exponents and their prior weights, by group; nan where a group has fewer."""
    features, own = law.encoding.features, law.encoding.data.exponent_weights
    groups = list(features.groups)
    most = max(len(features.exponents[g]) for g in groups)
    value, weight = np.full((len(groups), most), np.nan), np.full((len(groups), most), np.nan)
    for i, g in enumerate(groups):
        n = len(features.exponents[g])
        value[i, :n] = features.exponents[g]
        weight[i, :n] = own[i] if own else 1.0 / n
    dims = ("exponent_group", "exponent_candidate")
    return xr.Dataset(
        {"exponent_value": (dims, value), "exponent_prior": (dims, weight)},
        coords={"exponent_group": groups},
    )
