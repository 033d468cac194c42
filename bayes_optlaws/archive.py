"""A fitted law as an ArviZ DataTree, as a summary table, and as a file.

A saved law holds its options, its run table and its draws; everything else is computed again
from the table when it is loaded, so a file has no second copy of anything that could disagree.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from dataclasses import MISSING, asdict, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from arviz_stats.base import array_stats

from bayes_optlaws import stages
from bayes_optlaws.divergence import DivergencePriors
from bayes_optlaws.divergence import coords as divergence_coords
from bayes_optlaws.posterior import Draws
from bayes_optlaws.priors import Priors
from bayes_optlaws.runs import read_runs
from bayes_optlaws.sampling import Sample

FORMAT = 3
"""Version of the file's layout; a reader refuses one it does not know."""


class LawFileError(ValueError):
    """A file that is not a law, is damaged, or has an unknown format."""


def coefficients(law, draws: Draws) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intercept (n,), coefficients by feature (n, n_features), exponents (n, n_groups)."""
    tree, column_feature = law._data.tree, law._features.column_feature
    exponent = law._features.column_exponent
    n_features = len(law._features.features)
    coefficient = np.zeros((draws.n, n_features))
    for j in range(n_features):
        coefficient[:, j] = draws.beta[:, column_feature == j].sum(axis=1)
    index = tree.candidate_index(draws.combination)
    first = np.stack(
        [exponent[tree.columns[g, index[:, g], 0]] for g in range(index.shape[1])], axis=1
    )
    return draws.beta[:, 0], coefficient, first


def to_tree(law, sample: Sample) -> xr.DataTree:
    """Posterior of a law in ArviZ's layout, with named dimensions."""
    draws, chains = sample.draws, sample.chains
    n = draws.n // chains
    cd = ("chain", "draw")
    intercept, coefficient, exponent = coefficients(law, draws)
    shape = lambda x: x.reshape(chains, n, *x.shape[1:])  # noqa: E731
    variables = {
        "intercept": (cd, shape(intercept) + law._centre),
        "coefficient": ((*cd, "feature"), shape(coefficient)),
        "exponent": ((*cd, "exponent_group"), shape(exponent)),
        "combination": (cd, shape(draws.combination)),
    }
    dims = {
        "coefficient_sd": "block",
        "noise_slope": "noise_covariate",
        "slope_sd": "slope",
        "drift_sd": "scale",
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
        "feature": [f.name for f in law._features.features],
        "exponent_group": list(law._features.groups),
        **law._data.coords,
    }
    if draws.divergence:
        coords |= divergence_coords(law._divergence)
    if law._data.fields:
        variables["discrepancy"] = ((*cd, "field", "cell"), shape(draws.fields))
        coords["field"] = list(law._data.fields)
        scales = np.exp(law._discrepancy.cells + law._discrepancy.centre)
        coords["cell"] = [f"N={a:.3g} D={b:.3g}" for a, b in scales]
        variables["local_correction"] = ((*cd, "local_function"), shape(draws.local))
    fitted = law._fitted
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


def summary(law, prob: float) -> pd.DataFrame:
    """Table of `OptLaw.summary`."""
    tree = law.posterior["posterior"]
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

    draws = law._require_fit().draws
    raw = draws.beta / law._standardizer.sd
    intercept = law._centre + draws.beta[:, 0] - raw[:, 1:] @ law._standardizer.mean[1:]
    add("intercept", tree["intercept"].to_numpy(), "intercept", float(intercept.mean()))
    for j, f in enumerate(law._features.features):
        paper = raw[:, law._features.column_feature == j].sum(axis=1).mean()
        add(f.name, tree["coefficient"].to_numpy()[:, :, j], f.block, float(paper))
    for g, name in enumerate(law._features.groups):
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


def save(law, sample: Sample, path: Path) -> Path:
    """Write a law; see `OptLaw.save`."""
    draws = sample.draws
    table = law.runs.to_csv(index_label="__index__")
    options = {
        "features": law.features,
        "transfer": law.transfer,
        "divergence": law.divergence,
        "exponents": None if law.exponents is None else _plain(law.exponents),
        "priors": asdict(law.priors),
        "divergence_priors": asdict(law.divergence_priors),
        "random_seed": law.random_seed,
    }
    contents = {"beta": (("sample", "column"), draws.beta), "table": ((), table)}
    if law.stage_runs is not None:
        contents["stage_table"] = ((), law.stage_runs.to_csv(index_label="__index__"))
    tree = law.posterior.copy()
    tree["bayes_optlaws"] = xr.DataTree(
        xr.Dataset(
            contents,
            attrs={
                "format": FORMAT,
                "package_version": version("bayes-optlaws"),
                "options": json.dumps(options),
                "kept": sample.kept,
                "pareto_k": sample.pareto_k,
            },
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=".nc.part", dir=path.parent)
    os.close(handle)
    try:
        tree.to_netcdf(temporary, engine="h5netcdf")
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _plain(exponents) -> str | dict[str, list[float]]:
    if isinstance(exponents, str):
        return exponents
    return {str(g): [float(p) for p in c] for g, c in exponents.items()}


def _priors(kind: type, stored: dict):
    """Build priors from JSON, where tuples have become lists and dataclasses mappings."""
    default = {
        f.name: f.default if f.default is not MISSING else f.default_factory()
        for f in fields(kind)
        if f.default is not MISSING or f.default_factory is not MISSING
    }
    values = {}
    for name, value in stored.items():
        if isinstance(value, dict):
            value = _priors(type(default[name]), value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _table(stored: xr.DataArray) -> pd.DataFrame:
    """Rows kept as text, so that every column comes back."""
    table = pd.read_csv(io.StringIO(str(stored.item())), index_col="__index__")
    table.index.name = None
    return table


def load(cls, path: Path):
    """Read a law; see `OptLaw.load`."""
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with xr.open_datatree(path, engine="h5netcdf") as stored:
            tree = stored.load()
        meta = tree["bayes_optlaws"]
        form = int(meta.attrs["format"])
        options = json.loads(meta.attrs["options"])
    except Exception as error:
        raise LawFileError(
            f"{path} is not a law written by OptLaw.save, or it is damaged ({error})"
        ) from error
    if form != FORMAT:
        raise LawFileError(
            f"{path} has format {form}, written by bayes_optlaws "
            f"{meta.attrs.get('package_version')}; this version reads format {FORMAT}"
        )
    runs = _table(meta["table"])
    priors = _priors(Priors, options["priors"])
    divergence = options["divergence"] and _priors(DivergencePriors, options["divergence_priors"])
    law = cls(options["features"], options["transfer"], divergence, options["exponents"], priors)
    law._prepare(read_runs(runs))
    if "stage_table" in meta:
        law.stage_runs = stages.read_stages(_table(meta["stage_table"]))
    posterior = tree["posterior"].to_dataset()
    chains, n = posterior.sizes["chain"], posterior.sizes["draw"]
    flat = lambda name: posterior[name].to_numpy().reshape(chains * n, -1)  # noqa: E731
    names = [
        "noise_sd", "noise_growth", "noise_slope", "coefficient_sd", "scale_length", "cell_sd",
        "level_sd", "slope_sd", "local_sd", "drift_sd",
    ]  # fmt: skip
    hyper = {k: flat(k) for k in names if k in posterior}
    n_fields, n_cells = len(law._data.fields), len(law._data.cells)
    total = chains * n
    over_cells = (flat("discrepancy") if n_fields else np.zeros((total, 0))).reshape(
        total, n_fields, n_cells if n_fields else 0
    )
    local = flat("local_correction") if n_fields else np.zeros((total, 0))
    draws = Draws(
        hyper,
        flat("combination")[:, 0].astype(np.int64),
        meta["beta"].to_numpy(),
        over_cells,
        local,
        {
            str(k): posterior[k].to_numpy().reshape(total, *posterior[k].shape[2:])
            for k in posterior
            if str(k).startswith("divergence_")
        },
    )
    law._sample = Sample(
        draws, chains, tree["sample_stats"].to_dataset(), float(meta.attrs["kept"]),
        float(meta.attrs["pareto_k"]),
        tree["divergence_stats"].to_dataset() if "divergence_stats" in tree else None,
    )  # fmt: skip
    law.random_seed = options["random_seed"]
    return law
