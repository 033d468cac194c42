"""Write the posterior of long chains that tests hold samplers against: ``reference.json``.

Run after every change of the model: ``python tests/inference/write_reference.py [table ...]``.
Chains are long, with short steps, over all exponent combinations, and nothing of importance
sampling goes into them.  What is stored are numbers of the hyper-parameters, on the unconstrained
scale.
"""

import json
import sys
from pathlib import Path

import numpy as np
from arviz_stats.base import array_stats

import bayes_optlaws as bo
from bayes_optlaws.inference.chains import run_nuts
from bayes_optlaws.inference.density import HyperSpace

DRAWS, TUNE, ACCEPT = 3000, 600, 0.95
QUANTILES = (0.01, 0.05, 0.95, 0.99)
PATH = Path(__file__).with_name("reference.json")


def axes(space: HyperSpace, x: np.ndarray) -> np.ndarray:
    """Directions in which a sampler moves better than along the entries, as columns.

    Those of the Gaussian fitted at x; but for the noise, which is far from one, prior sds,
    with the growing part held at the settings where the noise is largest when its slopes
    change: there the runs fix it, at average settings not.
    """
    out = np.diag(space.sd)
    if space.data.noise_names:
        covariates, value = space.data.noise_covariates, space.split(x)
        growth = value["noise_growth"] * np.exp(covariates @ value["noise_slope"])
        first = space.names.index("noise_growth") + 1
        slopes = np.arange(first, first + covariates.shape[1])
        out[first - 1, slopes] = -covariates[np.argmax(growth)] * space.sd[slopes]
    other = [i for i, name in enumerate(space.names) if not name.startswith("noise")]
    rest = space.curvature_factor(x)[other]
    out[np.ix_(other, other)] = np.linalg.cholesky(rest @ rest.T)
    return out


def reference(table: str) -> dict[str, dict[str, float]]:
    """Moments and quantiles of every hyper-parameter, with its effective sample size."""
    data = bo.OptLaw().encode(bo.datasets.load(table)).data
    space = HyperSpace(data, bo.Priors())
    start = space.mode()
    x, stats = run_nuts(
        space.log_density, start, axes(space, start), 7, target_accept=ACCEPT, draws=DRAWS,
        tune=TUNE, chains=4, progress_bar=False,
    )  # fmt: skip
    if stats["diverging"].any():
        raise RuntimeError(f"{table}: divergent transitions")
    out = {}
    for j, name in enumerate(space.names):
        v = x[:, :, j]
        out[name] = {
            "mean": v.mean(),
            "sd": v.std(),
            **{str(q): np.quantile(v, q) for q in QUANTILES},
            "ess": array_stats.ess(v, method="bulk"),
            "rhat": array_stats.rhat(v),
        }
    return {n: {k: round(float(v), 4) for k, v in row.items()} for n, row in out.items()}


def main() -> None:
    """Write the given tables, and keep what is there of others."""
    stored = json.loads(PATH.read_text()) if PATH.exists() else {}
    for table in sys.argv[1:] or ["pocket"]:
        stored[table] = reference(table)
    PATH.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
