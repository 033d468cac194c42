"""Exact draws of exponents, coefficients and discrepancy given draws of the hyper-parameters.

NUTS samples the hyper-parameters only.  Given one draw of them the exponent combination is a
categorical draw, the coefficients and the discrepancy a Gaussian one; `recover` makes one of
each for every hyper-parameter draw, so the joint posterior is exact.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.kernels.compiled import njit
from bayes_optlaws.kernels.hyper import hyper_inputs
from bayes_optlaws.kernels.marginal import draw_coefficients

SIGN_TRIES = 16
"""Draws of the coefficients for each draw of the rest, where priors state signs."""

LEAST_SIGN_SHARE = 0.02
"""Least share of the posterior that has the stated signs."""


@njit(nogil=True)
def _recover(
    noise_sd: np.ndarray,
    noise_slope: np.ndarray,
    coefficient_sd: np.ndarray,
    scale_length: np.ndarray,
    field_sd: np.ndarray,
    local_sd: np.ndarray,
    column_block: np.ndarray,
    intercept_sd: np.ndarray,
    noise_covariates: np.ndarray,
    cells: np.ndarray,
    products: np.ndarray,
    n: np.ndarray,
    log_prior: np.ndarray,
    common: np.ndarray,
    columns: np.ndarray,
    n_candidates: np.ndarray,
    n_columns: np.ndarray,
    screened: np.ndarray,
    signs: np.ndarray,
    uniform: np.ndarray,
    normal: np.ndarray,
) -> tuple[np.ndarray, ...]:
    draws = noise_sd.shape[0]
    q = column_block.size
    m = normal.shape[2] - q
    combination = np.empty(draws, dtype=np.int64)
    beta, u = np.empty((draws, q)), np.empty((draws, m))
    log_ratio, share = np.empty(draws), np.empty(draws)
    for s in range(draws):
        w, d, scale_factor, _ = hyper_inputs(
            noise_sd[s],
            noise_slope[s],
            coefficient_sd[s],
            scale_length[s],
            field_sd[s],
            local_sd[s],
            column_block,
            intercept_sd,
            noise_covariates,
            cells,
        )
        combination[s], beta[s], u[s], log_ratio[s], share[s] = draw_coefficients(
            w,
            d,
            scale_factor,
            field_sd[s],
            local_sd[s],
            products,
            n,
            log_prior,
            common,
            columns,
            n_candidates,
            n_columns,
            screened,
            signs,
            uniform[s],
            normal[s],
        )
    return combination, beta, u, log_ratio, share


@dataclass(frozen=True)
class Draws:
    """Joint posterior draws, one row each.

    Parameters
    ----------
    hyper : dict of str to array, shape (n_draws, size)
        Hyper-parameters.
    combination : int array, shape (n_draws,)
        Exponent combination.
    beta : array, shape (n_draws, n_columns)
        Coefficients of the standardised dictionary, zero outside the combination.
    fields : array, shape (n_draws, n_fields, n_cells)
        Discrepancy over scales at its inducing points.
    local : array, shape (n_draws, n_local + sum(n_drift) + n_effects)
        Coefficients of the local functions, then those of the drifts, then those of covariates.
    divergence : dict of str to array, shape (n_draws, ...)
        Parameters of the divergence part; empty when it is not modelled.
    """

    hyper: dict[str, np.ndarray]
    combination: np.ndarray
    beta: np.ndarray
    fields: np.ndarray
    local: np.ndarray
    divergence: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of draws."""
        return self.combination.size

    def thin(self, limit: int) -> Draws:
        """At most ``limit`` draws, evenly spaced."""
        if self.n <= limit:
            return self
        return self.take(np.linspace(0, self.n - 1, limit).round().astype(int))

    def take(self, i: np.ndarray) -> Draws:
        """Draws of the given indices."""
        return Draws(
            {k: v[i] for k, v in self.hyper.items()},
            self.combination[i],
            self.beta[i],
            self.fields[i],
            self.local[i],
            {k: v[i] for k, v in self.divergence.items()},
        )


def recover(
    space: HyperSpace,
    hyper: dict[str, np.ndarray],
    screened: np.ndarray,
    rng: np.random.Generator,
) -> tuple[Draws, np.ndarray, np.ndarray]:
    """Draw exponents, coefficients and discrepancy for every hyper-parameter draw.

    Parameters
    ----------
    space : HyperSpace
        Of the full model (all combinations).
    hyper : dict of str to array, shape (n_draws, size)
        Hyper-parameter draws.
    screened : bool array, shape (n_combinations,)
        Combinations that the hyper-parameters were sampled with.
    rng : numpy Generator

    Returns
    -------
    draws : Draws
    log_ratio : array, shape (n_draws,)
        Log evidence with all combinations minus that with the screened ones: the importance
        weight of the draw, zero where nothing was left out.
    share : array, shape (n_draws,)
        How probable the signs are that priors state, a further weight, estimated from `SIGN_TRIES`
        draws; one where nothing is said of signs. A draw whose share is zero does not have them.

    Raises
    ------
    ValueError
        If the runs all but rule the stated signs out.
    """
    data = space.data
    inputs = space.kernel_inputs(hyper)
    n_draws = inputs[0].shape[0]
    tries = 1 if data.signs is None else SIGN_TRIES
    signs = np.zeros(data.column_block.size, np.int64) if data.signs is None else data.signs
    uniform = rng.random((n_draws, tries))
    normal = rng.standard_normal((n_draws, tries, data.statistics.xy.shape[1]))
    args = data.kernel_args(space.priors)
    workers = max(1, min(os.cpu_count() or 1, 8, n_draws // 50))
    parts = np.array_split(np.arange(n_draws), workers)

    def work(i: np.ndarray) -> tuple[np.ndarray, ...]:
        some = (np.ascontiguousarray(x[i]) for x in inputs)
        drawn = uniform[i], np.ascontiguousarray(normal[i])
        return _recover(*some, *args, screened, signs, *drawn)

    with ThreadPoolExecutor(workers) as pool:
        done = list(pool.map(work, parts))
    combination, beta, u, log_ratio, share = (np.concatenate(x) for x in zip(*done, strict=True))
    if share.mean() < LEAST_SIGN_SHARE:
        raise ValueError(
            f"the runs contradict the signs that Priors.coefficients state: {share.mean():.2%} of "
            "the posterior has them; take back a sign, or give that coefficient a mean and an sd"
        )
    n_fields, n_cells = len(data.fields), len(data.cells) if data.fields else 0
    fields = u[:, : n_fields * n_cells].reshape(n_draws, n_fields, n_cells)
    draws = Draws(hyper, combination, beta, fields, u[:, n_fields * n_cells :])
    return draws, log_ratio, share
