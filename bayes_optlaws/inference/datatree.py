"""The posterior of a law as an ArviZ DataTree, and as a summary table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from arviz_stats.base import array_stats

from bayes_optlaws.inference.draws import Draws
from bayes_optlaws.inference.nuts import Sample
from bayes_optlaws.model.divergence import coords as divergence_coords
from bayes_optlaws.model.encoding import RunEncoding


def coefficients(encoding: RunEncoding, draws: Draws) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intercept (n,), coefficients by feature (n, n_features), exponents (n, n_groups)."""
    tree, column_feature = encoding.data.tree, encoding.features.column_feature
    exponent = encoding.features.column_exponent
    n_features = len(encoding.features.features)
    coefficient = np.zeros((draws.n, n_features))
    for j in range(n_features):
        coefficient[:, j] = draws.beta[:, column_feature == j].sum(axis=1)
    index = tree.candidate_index(draws.combination)
    first = np.stack(
        [exponent[tree.columns[g, index[:, g], 0]] for g in range(index.shape[1])], axis=1
    )
    return draws.beta[:, 0], coefficient, first


def cell_labels(encoding: RunEncoding) -> list[str]:
    """Model size and tokens of the discrepancy's inducing points, as labels."""
    scales = np.exp(encoding.discrepancy.cells + encoding.discrepancy.centre)
    return [f"N={a:.3g} D={b:.3g}" for a, b in scales]


def to_tree(encoding: RunEncoding, sample: Sample) -> xr.DataTree:
    """Posterior of a law in ArviZ's layout, with named dimensions."""
    draws, chains = sample.draws, sample.chains
    n = draws.n // chains
    cd = ("chain", "draw")
    intercept, coefficient, exponent = coefficients(encoding, draws)
    shape = lambda x: x.reshape(chains, n, *x.shape[1:])  # noqa: E731
    variables: dict[str, Any] = {
        "intercept": (cd, shape(intercept) + encoding.centre),
        "coefficient": ((*cd, "feature"), shape(coefficient)),
        "exponent": ((*cd, "exponent_group"), shape(exponent)),
        "combination": (cd, shape(draws.combination)),
    }
    dims: dict[str, str] = {
        "coefficient_sd": "block",
        "noise_slope": "noise_covariate",
        "slope_sd": "slope",
        "drift_sd": "scale",
        **{name: f"{name}_of" for name, _ in encoding.data.effect_parts},
    }
    for name, value in draws.hyper.items():
        if name in dims:
            variables[name] = ((*cd, dims[name]), shape(value))
        else:
            variables[name] = (cd, shape(value[:, 0]))
    for name, value in draws.divergence.items():
        labels = {"divergence_z": "divergence_direction"}.get(name, "divergence_column")
        matrix = value.ndim > 1
        variables[name] = ((*cd, labels) if matrix else cd, shape(value))
    coords = {
        "chain": np.arange(chains),
        "draw": np.arange(n),
        "feature": [f.name for f in encoding.features.features],
        "exponent_group": list(encoding.features.groups),
        **encoding.data.coords,
    }
    if draws.divergence:
        coords |= divergence_coords(encoding.divergence)
    if encoding.data.fields:
        variables["discrepancy"] = ((*cd, "field", "cell"), shape(draws.fields))
        coords["field"] = list(encoding.data.fields)
        coords["cell"] = cell_labels(encoding)
    if encoding.covariates:
        names = encoding.effects.labels(encoding.finished)
        effects = draws.local[:, draws.local.shape[1] - len(names) :]
        variables["effect"] = ((*cd, "effect_column"), shape(effects))
        coords["effect_column"] = list(names)
    if draws.local.shape[1]:
        variables["local_correction"] = ((*cd, "local_function"), shape(draws.local))
    fitted = encoding.finished
    run = {"run": fitted["run_id"].to_numpy()}
    numeric = [
        c for c in ("n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps") if c in fitted
    ]
    return xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(variables, coords=coords),
            "sample_stats": _numeric(sample.sample_stats),
            "observed_data": xr.Dataset(
                {"log_loss": ("run", np.log(fitted["final_loss"].to_numpy(float)))}, coords=run
            ),
            **(
                {}
                if sample.divergence_stats is None
                else {"divergence_stats": _numeric(sample.divergence_stats)}
            ),
            "constant_data": xr.Dataset(
                {c: ("run", fitted[c].to_numpy(float)) for c in numeric}, coords=run
            ),
        }
    )


def _numeric(stats: xr.Dataset) -> xr.Dataset:
    """Sampler statistics without the text that NetCDF cannot hold."""
    return stats.drop_vars([v for v in stats if stats[v].dtype == object])


def summary(
    encoding: RunEncoding, draws: Draws, posterior: xr.DataTree, prob: float
) -> pd.DataFrame:
    """Table of `OptLaw.summary`."""
    tree = posterior["posterior"]
    tail = (1 - prob) / 2
    rows = {}

    def add(label: str, value: np.ndarray, block: str, paper: float = np.nan) -> None:
        lower, upper = np.quantile(value, [tail, 1 - tail])
        constant = np.ptp(value) == 0
        rows[label] = {
            "mean": value.mean(),
            "sd": value.std(),
            "lower": lower,
            "upper": upper,
            "ess_bulk": np.nan if constant else float(array_stats.ess(value, method="bulk")),
            "rhat": np.nan if constant else float(array_stats.rhat(value)),
            "block": block,
            "paper_units": paper,
        }

    raw = draws.beta / encoding.standardizer.sd
    intercept = encoding.centre + draws.beta[:, 0] - raw[:, 1:] @ encoding.standardizer.mean[1:]
    add("intercept", tree["intercept"].to_numpy(), "intercept", float(intercept.mean()))
    for j, f in enumerate(encoding.features.features):
        paper = raw[:, encoding.features.column_feature == j].sum(axis=1).mean()
        add(f.name, tree["coefficient"].to_numpy()[:, :, j], f.block, float(paper))
    for g, name in enumerate(encoding.features.groups):
        add(f"exponent[{name}]", tree["exponent"].to_numpy()[:, :, g], "exponent")
    for name in (*draws.hyper, *draws.divergence):
        if name == "divergence_z":
            continue
        value = tree[name].to_numpy()
        if value.ndim == 2:
            add(name, value, "scale of the model")
            continue
        labels = tree[name].coords[tree[name].dims[2]].to_numpy()
        for j, label in enumerate(labels):
            add(f"{name}[{label}]", value[:, :, j], "scale of the model")
    return pd.DataFrame(rows).T.astype({c: float for c in rows["intercept"] if c != "block"})
