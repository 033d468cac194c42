r"""Leave-one-out cross-validation of a law with its Gaussian part integrated out.

Given hyper-parameters and exponents the model is a Gaussian linear one, so the predictive
density of run i given all others is closed-form: with residual :math:`r_i` at the posterior mean
of the coefficients and leverage :math:`h_i`, it is normal with mean :math:`y_i - r_i/(1-h_i)`
and variance :math:`\sigma_i^2/(1-h_i)`.  What is left to importance sampling is only the change
of the few hyper-parameters, so Pareto k is small where ordinary PSIS-LOO would fail.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from arviz_stats import loo as psis_loo
from scipy.linalg import block_diag, cho_factor, cho_solve, solve_triangular

from bayes_optlaws._hyper import hyper_inputs
from bayes_optlaws.hyper import HyperSpace

MAX_DRAWS = 500


def loo_density(law, *, max_draws: int = MAX_DRAWS) -> np.ndarray:
    """Log predictive density of each convergent run given the others, shape (draws, n).

    Parameters
    ----------
    law : OptLaw
        Fitted.
    max_draws : int
        Posterior draws used, evenly spaced.
    """
    sample = law._require_fit()
    draws = sample.draws.thin(max_draws)
    data, table = law._data, law._fitted
    rows = law._rows(table)
    y = np.log(table["final_loss"].to_numpy(float)) - law._centre
    q = data.column_block.size
    label = law._noise.label
    out = np.empty((draws.n, y.size))
    inputs = HyperSpace(data, law.priors).kernel_inputs(draws.hyper)
    layout, fields = data.kernel_args(law.priors)[:5], inputs[4]
    for s in range(draws.n):
        w, d, scale, _, _, _, shared = hyper_inputs(*(v[s] for v in inputs), *layout)
        selected = data.tree.selected(draws.combination[s])
        x = rows[:, selected] / np.sqrt(d[selected])
        if fields.shape[1]:
            transform = block_diag(*[a * scale for a in fields[s]], shared)
            x = np.hstack([x, rows[:, q:] @ transform])
        precision = w[label]
        weighted = x * precision[:, None]
        factor = cho_factor(np.eye(x.shape[1]) + x.T @ weighted, lower=True)
        residual = y - x @ cho_solve(factor, weighted.T @ y)
        half = solve_triangular(factor[0], x.T, lower=True)
        leverage = precision * np.sum(half**2, axis=0)
        keep = 1.0 - leverage
        variance = 1.0 / (precision * keep)
        out[s] = -0.5 * np.log(2 * np.pi * variance) - 0.5 * (residual / keep) ** 2 / variance
    return out


def loo(law):
    """PSIS-LOO of a fitted law; see `loo_density`."""
    chains = law._require_fit().chains
    density = loo_density(law)
    usable = density.shape[0] // chains * chains
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(
                {"noise_sd": (("chain", "draw"), np.zeros((chains, usable // chains)))}
            ),
            "log_likelihood": xr.Dataset(
                {
                    "log_loss": (
                        ("chain", "draw", "run"),
                        density[:usable].reshape(chains, usable // chains, -1),
                    )
                },
                coords={"run": law._fitted["run_id"].to_numpy()},
            ),
        }
    )
    return psis_loo(tree, pointwise=True, var_name="log_loss", reff=1.0)
