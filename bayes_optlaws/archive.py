"""A fitted law as a file.

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
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from bayes_optlaws.inference import stages
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.nuts import Sample
from bayes_optlaws.inference.predictor import Draws
from bayes_optlaws.model.divergence import DivergencePriors
from bayes_optlaws.model.encoding import RunEncoding
from bayes_optlaws.model.priors import Priors
from bayes_optlaws.runs.readers import read_runs

FORMAT = 3
"""Version of the file's layout; a reader refuses one it does not know."""


class LawFileError(ValueError):
    """A file that is not a law, is damaged, or has an unknown format."""


def save(law: FittedLaw, path: Path) -> Path:
    """Write a law; see `OptLaw.save`."""
    sample, draws = law.sample, law.draws
    table = law.runs.to_csv(index_label="__index__")
    given = law.options
    options = {
        "features": given["features"],
        "transfer": bool(given["transfer"]),
        "divergence": bool(given["divergence"]),
        "exponents": None if given["exponents"] is None else _plain(given["exponents"]),
        "priors": None if given["priors"] is None else asdict(given["priors"]),
        "divergence_priors": (
            asdict(given["divergence"])
            if isinstance(given["divergence"], DivergencePriors)
            else None
        ),
        "stage_prior": None if given["stage_prior"] is None else asdict(given["stage_prior"]),
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


def _dataclass(kind: type, stored: dict[str, Any] | None) -> Any:
    """Build priors from JSON, where tuples have become lists and dataclasses mappings."""
    if stored is None:
        return None
    default = {
        f.name: f.default if f.default is not MISSING else f.default_factory()  # type: ignore[misc]
        for f in fields(kind)
        if f.default is not MISSING or f.default_factory is not MISSING
    }
    values = {}
    for name, value in stored.items():
        if isinstance(value, dict):
            value = _dataclass(type(default[name]), value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _table(stored: xr.DataArray) -> pd.DataFrame:
    """Rows kept as text, so that every column comes back."""
    table = pd.read_csv(io.StringIO(str(stored.item())), index_col="__index__")
    table.index.name = None
    return table


def load(path: Path) -> FittedLaw:
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
    runs = read_runs(_table(meta["table"]))
    own_risk = _dataclass(DivergencePriors, options["divergence_priors"])
    given = {
        "features": options["features"],
        "transfer": options["transfer"],
        "divergence": own_risk if options["divergence"] and own_risk else options["divergence"],
        "exponents": options["exponents"],
        "priors": _dataclass(Priors, options["priors"]),
        "stage_prior": _dataclass(stages.StagePrior, options.get("stage_prior")),
    }
    encoding = RunEncoding.from_runs(
        runs,
        features=given["features"],
        transfer=given["transfer"],
        exponents=given["exponents"],
        slope_prior=(given["priors"] or Priors()).slopes,
    )
    stage_runs = None
    if "stage_table" in meta:
        stage_runs = stages.read_stages(_table(meta["stage_table"]))
    posterior = tree["posterior"].to_dataset()
    chains, n = posterior.sizes["chain"], posterior.sizes["draw"]
    flat = lambda name: posterior[name].to_numpy().reshape(chains * n, -1)  # noqa: E731
    names = [
        "noise_sd", "noise_growth", "noise_slope", "coefficient_sd", "scale_length", "cell_sd",
        "level_sd", "slope_sd", "local_sd", "drift_sd",
    ]  # fmt: skip
    hyper = {k: flat(k) for k in names if k in posterior}
    n_fields, n_cells = len(encoding.data.fields), len(encoding.data.cells)
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
    sample = Sample(
        draws, chains, tree["sample_stats"].to_dataset(), float(meta.attrs["kept"]),
        float(meta.attrs["pareto_k"]),
        tree["divergence_stats"].to_dataset() if "divergence_stats" in tree else None,
    )  # fmt: skip
    return FittedLaw(
        encoding,
        given["priors"] or Priors(),
        sample,
        options["random_seed"],
        (own_risk or DivergencePriors()) if options["divergence"] else None,
        stage_runs,
        given["stage_prior"] or stages.StagePrior(),
        given,
    )
