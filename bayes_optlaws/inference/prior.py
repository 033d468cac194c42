"""What the priors say before a loss is read: draws of everything, and of the losses of candidates.

Of the run table only what standardises features and settings takes part, and its mean log loss,
which centres the intercept. Published slopes (`bayes_optlaws.model.slopes`) and priors of single
coefficients are part of the prior: hyper-parameters and exponents are resampled by how well they
agree with them, coefficients are then drawn exactly.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import logsumexp

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import Draws
from bayes_optlaws.inference.fitted import FittedLaw, check_kind
from bayes_optlaws.inference.nuts import Sample
from bayes_optlaws.kernels.hyper import JITTER
from bayes_optlaws.model.data import ModelData
from bayes_optlaws.model.divergence import DivergencePriors, parameters
from bayes_optlaws.model.encoding import RunEncoding
from bayes_optlaws.model.priors import Priors

PRIOR_DRAWS = 1000
"""Draws by default."""

POOL = 20_000
"""Hyper-parameters and exponents among which those are resampled that agree with what is known."""

LEAST_POOL_SHARE = 1e-3
"""Effective share of the pool below which priors contradict one another."""

_AT_ONCE, _MOST_ROUNDS = 2000, 400


def prior_law(
    encoding: RunEncoding,
    priors: Priors,
    divergence_priors: DivergencePriors | None = None,
    *,
    draws: int = PRIOR_DRAWS,
    random_seed: int = 0,
) -> FittedLaw:
    """Return a law whose draws are those of the prior: it predicts what is believed beforehand.

    Parameters
    ----------
    encoding : RunEncoding
    priors : Priors
    divergence_priors : DivergencePriors, optional
        None where divergence is not modelled.
    draws, random_seed : int

    Raises
    ------
    ValueError
        If the priors contradict one another.
    """
    rng = np.random.default_rng(random_seed)
    drawn = draw_priors(encoding.data, priors, draws, rng)
    risk = {}
    if divergence_priors is not None:
        size = divergence_priors.moments(len(encoding.divergence.scale.names))[0].size
        z = rng.standard_normal((draws, size))
        risk = {"divergence_z": z}
        risk |= parameters(z, encoding.divergence, divergence_priors, np.eye(size))
    drawn = Draws(drawn.hyper, drawn.combination, drawn.beta, drawn.fields, drawn.local, risk)
    sample = Sample(drawn, 1, xr.Dataset(), 1.0, np.nan)
    return FittedLaw(encoding, priors, sample, random_seed, divergence_priors)


def prior_predictive(
    encoding: RunEncoding,
    priors: Priors | None,
    table: pd.DataFrame,
    *,
    kind: str = "new_run",
    draws: int = PRIOR_DRAWS,
    random_seed: int = 0,
) -> xr.DataArray:
    """Draws of the loss of candidates, given that they finish; see `OptLaw.prior_predictive`.

    Parameters
    ----------
    encoding : RunEncoding
    priors : Priors, optional
        Those that the encoding was made with.
    table : DataFrame
        Validated candidate table.
    kind : {"new_run", "mean"}
        As in ``OptLaw.predict_draws``.
    draws, random_seed : int

    Returns
    -------
    DataArray
        Dims ``sample`` and ``candidate``, nats a token.
    """
    check_kind(kind)
    law = prior_law(encoding, priors or Priors(), draws=draws, random_seed=random_seed)
    rng = np.random.default_rng(random_seed)
    loss = law.draw_loss(table, kind, rng, max_draws=law.draws.n).loss
    return xr.DataArray(
        loss, dims=("sample", "candidate"), coords={"candidate": table.index.to_numpy()},
        name="final_loss", attrs={"kind": kind, "units": "nats per token", "given": "prior"},
    )  # fmt: skip


def draw_priors(data: ModelData, priors: Priors, n: int, rng: np.random.Generator) -> Draws:
    """Draw everything of the loss part from its prior.

    Parameters
    ----------
    data : ModelData
        The statistics of the runs take no part.
    priors : Priors
    n : int
    rng : numpy Generator

    Returns
    -------
    Draws

    Raises
    ------
    ValueError
        If the priors contradict one another.
    """
    space = HyperSpace(data, priors)
    known = data.statistics.n[-1] > 0
    size = max(POOL, n) if known else n
    x = space.mean + space.sd * rng.standard_normal((size, space.size))
    probability = np.exp(data.log_prior)
    combination = rng.choice(probability.size, size=size, p=probability / probability.sum())
    weight = np.ones(size)
    if known:
        log_weight = np.concatenate(
            [
                _given_knowledge(data, _sd(data, priors, space, x[i]), combination[i])[0]
                for i in _parts(size)
            ]
        )
        weight = np.exp(log_weight - logsumexp(log_weight))
    effective = weight.sum() ** 2 / (weight**2).sum()
    if effective < LEAST_POOL_SHARE * size and known:
        raise ValueError(
            f"the priors contradict one another: of {size} draws of the hyper-parameters "
            f"{effective:.0f} agree with the slopes and coefficients that are stated; widen some"
        )
    taken, beta = [], []
    missing = n
    for _ in range(_MOST_ROUNDS):
        i = rng.choice(size, size=missing, p=weight / weight.sum())
        drawn = _coefficients(data, _sd(data, priors, space, x[i]), combination[i], rng)
        fits = np.ones(missing, dtype=bool)
        if data.signs is not None:
            fits = np.all(drawn * data.signs >= 0, axis=1)
        taken.append(i[fits])
        beta.append(drawn[fits])
        missing -= int(fits.sum())
        if not missing:
            break
    else:
        raise ValueError("next to no prior draw has the signs that are stated; take some back")
    index = np.concatenate(taken)
    hyper = space.split(x[index])
    fields, local = _discrepancy(data, hyper, rng)
    return Draws(hyper, combination[index], np.vstack(beta), fields, local)


def _parts(size: int) -> list[slice]:
    return [slice(start, start + _AT_ONCE) for start in range(0, size, _AT_ONCE)]


def _sd(data: ModelData, priors: Priors, space: HyperSpace, x: np.ndarray) -> np.ndarray:
    """Prior sd of every column, shape (n, n_columns)."""
    by_block = space.split(x)["coefficient_sd"]
    block = data.column_block
    return np.where(block < 0, priors.intercept_sd, by_block[:, np.maximum(block, 0)])


def _given_knowledge(
    data: ModelData, sd: np.ndarray, combination: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Log density of what is known for each draw, its columns, and the coefficients given it.

    These are normal with the mean and the Cholesky factor of the precision that are returned.
    """
    kinds, which = np.unique(combination, return_inverse=True)
    selected = np.array([data.tree.selected(k) for k in kinds])[which]
    d = 1.0 / np.take_along_axis(sd, selected, axis=1) ** 2
    s = data.statistics
    precision = s.gram[-1][selected[:, :, None], selected[:, None, :]]
    precision[:, np.arange(d.shape[1]), np.arange(d.shape[1])] += d
    factor = np.linalg.cholesky(precision)
    half = np.linalg.solve(factor, s.xy[-1][selected][:, :, None])
    value = 0.5 * np.sum(half[:, :, 0] ** 2, axis=1) + 0.5 * np.log(d).sum(axis=1)
    value -= np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    mean = np.linalg.solve(np.swapaxes(factor, 1, 2), half)[:, :, 0]
    return value, selected, mean, factor


def _coefficients(
    data: ModelData, sd: np.ndarray, combination: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw the coefficients given hyper-parameters and exponents, shape (n, n_columns)."""
    out = np.zeros(sd.shape)
    for i in _parts(len(sd)):
        _, selected, mean, factor = _given_knowledge(data, sd[i], combination[i])
        normal = rng.standard_normal((*mean.shape, 1))
        value = mean + np.linalg.solve(np.swapaxes(factor, 1, 2), normal)[:, :, 0]
        np.put_along_axis(out[i], selected, value, axis=1)
    return out


def _discrepancy(
    data: ModelData, hyper: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the fields (n, n_fields, n_cells), and the coefficients of all that follows them."""
    n = len(hyper["noise_sd"])
    fields = np.zeros((n, 0, 0))
    if data.fields:
        amplitude = np.hstack([hyper["level_sd"], hyper.get("slope_sd", np.zeros((n, 0)))])
        d2 = np.sum((data.cells[:, None] - data.cells) ** 2, axis=-1)
        correlation = np.exp(-0.5 * d2 / hyper["scale_length"][:, :, None] ** 2)
        own = JITTER + hyper["cell_sd"][:, :, None] ** 2
        factor = np.linalg.cholesky(correlation + own * np.eye(len(data.cells)))
        normal = rng.standard_normal((n, len(data.fields), len(data.cells)))
        fields = amplitude[:, :, None] * np.einsum("sij,sfj->sfi", factor, normal)
    names = ["local_sd", "drift_sd", *(name for name, _ in data.effect_parts)]
    sds = np.hstack([hyper.get(k, np.zeros((n, 0))) for k in names])
    local = sds[:, data.sd_entry]
    return fields, local * rng.standard_normal(local.shape)
