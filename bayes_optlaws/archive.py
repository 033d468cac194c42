"""A fitted law as a file.

A saved law holds its options, its run table and its draws; everything else is computed again
from the table when it is loaded, so a file has no second copy of anything that could disagree.

The file is NetCDF, followed by a line with the SHA-256 of all before it, which is checked before
anything is read: a file that was damaged is refused. That guards against accidents. It is no proof
of origin, so take a law file from those from whom you would take its numbers.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import xarray as xr

from bayes_optlaws.inference import residuals, stages
from bayes_optlaws.inference.draws import Draws
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.nuts import Sample
from bayes_optlaws.model.divergence import DivergencePriors
from bayes_optlaws.model.encoding import RunEncoding
from bayes_optlaws.model.neighbours import Learned
from bayes_optlaws.model.priors import CoefficientPrior, Priors
from bayes_optlaws.model.tails import Tails
from bayes_optlaws.runs.readers import read_runs
from bayes_optlaws.text import files
from bayes_optlaws.text.printable import printable
from bayes_optlaws.text.typed import from_text, to_text

FORMAT = 6
"""Version of the file's layout; a reader refuses one it does not know."""

_STATS_DIMS = {0: (), 2: ("chain", "draw")}
_UNSIGNED = 3  # format without checksum, its table as CSV; still read
_UNWEIGHTED = (_UNSIGNED, 4)  # formats whose noise is normal; still read
_ALONE = (*_UNWEIGHTED, 5)  # formats without anything learned from residuals; still read
_SEAL = re.compile(rb"\nbayes_optlaws sha256 ([0-9a-f]{64})\n\Z")
SEAL_SIZE = 64 + 23
"""Bytes of the last line."""
_HYPER = (
    "noise_sd", "noise_growth", "noise_slope", "coefficient_sd", "scale_length", "cell_sd",
    "level_sd", "slope_sd", "local_sd", "drift_sd", "effect_sd", "interaction_sd",
    "group_level_sd", "group_slope_sd",
)  # fmt: skip


class LawFileError(ValueError):
    """A file that is not a law, is damaged, or has an unknown format."""


class LawFileWarning(UserWarning):
    """A law file that another version of the package wrote."""


def save(law: FittedLaw, path: Path) -> Path:
    """Write a law; see `OptLaw.save`."""
    files.require_target(path)
    return files.write(path, _bytes(law))


def _bytes(law: FittedLaw) -> bytes:
    """Return the file of a law, after reading it back."""
    sample, draws = law.sample, law.draws
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
        "covariates": _names(given.get("covariates")),
        "groups": given.get("groups"),
        "residuals": bool(given["residuals"]),
        "random_seed": law.random_seed,
    }
    tables = {"table": law.runs}
    if law.stage_runs is not None:
        tables["stage_table"] = law.stage_runs
    # Text as bytes: HDF5 keeps strings elsewhere, where no size limits what is read.
    texts = {
        name: (f"{name}_byte", np.frombuffer(to_text(table).encode(), dtype=np.uint8))
        for name, table in tables.items()
    }
    tree = law.draw_tree.copy()
    tree["bayes_optlaws"] = xr.DataTree(
        xr.Dataset(
            {
                "beta": (("sample", "column"), draws.beta),
                "run_weight": ("finished_run", law.encoding.measurement.weight),
                **texts,
            },
            attrs={
                "format": FORMAT,
                "package_version": version("bayes-optlaws"),
                "options": json.dumps(options),
                "kept": sample.kept,
                "pareto_k": sample.pareto_k,
                "method": sample.method,
                "note": sample.note,
                "noise_df": law.encoding.measurement.df,
                "neighbours": json.dumps(law.neighbours and asdict(law.neighbours.learned)),
                "tails": json.dumps(law.tails and asdict(law.tails)),
            },
        )
    )
    # In memory: HDF5 ends the process when the disk is full.
    data = bytes(tree.to_netcdf(engine="h5netcdf"))
    data = seal(data)
    with h5py.File(io.BytesIO(_sealed(data)), "r") as file:
        for name, table in tables.items():
            back = _table(file, name, FORMAT)
            try:
                pd.testing.assert_frame_equal(back, table, check_freq=False)
                same = back.attrs == table.attrs
            except AssertionError as error:
                raise ValueError(f"the run table cannot be stored: {error}") from None
            if not same:
                raise ValueError("the run table cannot be stored: its attrs would change")
        if not np.array_equal(_numbers(file, "bayes_optlaws/beta"), draws.beta, equal_nan=True):
            raise ValueError("the draws cannot be stored")
    return data


def _names(covariates: Iterable[str] | None) -> list[str] | dict[str, str] | None:
    if covariates is None or isinstance(covariates, Mapping):
        return None if covariates is None else dict(covariates)
    return list(covariates)


def _plain(exponents: str | Mapping[str, Iterable[float]]) -> str | dict[str, list[float]]:
    if isinstance(exponents, str):
        return exponents
    return {str(g): [float(p) for p in c] for g, c in exponents.items()}


def _dataclass(kind: type, stored: dict[str, Any] | None) -> Any:
    """Build priors from JSON, where tuples have become lists and dataclasses mappings."""
    if stored is None:
        return None
    default = {
        f.name: f.default_factory() if f.default_factory is not MISSING else f.default
        for f in fields(kind)
        if f.default is not MISSING or f.default_factory is not MISSING
    }
    values = {}
    for name, value in stored.items():
        if is_dataclass(default.get(name)) != isinstance(value, dict) and value is not None:
            raise TypeError(f"{kind.__name__}.{name} cannot be {value!r}")
        if isinstance(value, dict):
            value = _dataclass(type(default[name]), value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _priors(stored: dict[str, Any] | None) -> Priors | None:
    """Build priors from JSON; those of coefficients are mappings of mappings."""
    if stored is None:
        return None
    stored = dict(stored)
    coefficients = stored.pop("coefficients", {})
    exponents = stored.pop("exponents", {})  # files of before there were such have neither
    own = {str(n): _dataclass(CoefficientPrior, c) for n, c in coefficients.items()}
    found: Priors = _dataclass(Priors, stored)
    return replace(found, coefficients=own, exponents=exponents)


def load(path: Path) -> FittedLaw:
    """Read a law; see `OptLaw.load`."""
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file():
        raise LawFileError(f"{path} is not a law written by OptLaw.save: it is no regular file")
    data = path.read_bytes()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with h5py.File(io.BytesIO(_sealed(data)), "r") as file:
                law = _law(file, sealed=_SEAL.search(data[-SEAL_SIZE:]) is not None)
        except _OtherFormat as error:
            raise LawFileError(f"{path} has {error}") from None
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever is in the file: its reader must not fail otherwise
            why = printable(f"{type(error).__name__}: {error}"[:300])
            raise LawFileError(
                f"{path} is not a law written by OptLaw.save, or it is damaged ({why})"
            ) from error
    for warning in said:
        if issubclass(warning.category, LawFileWarning):
            warnings.warn(f"{path}: {warning.message}", LawFileWarning, stacklevel=3)
    return law


class _OtherFormat(Exception):
    """A format that this version does not read."""


def seal(data: bytes) -> bytes:
    """Return NetCDF with the line that tells its SHA-256."""
    return data + b"\nbayes_optlaws sha256 " + hashlib.sha256(data).hexdigest().encode() + b"\n"


def _sealed(data: bytes) -> bytes:
    """Return a file without its last line, which must tell its digest; format 3 has none."""
    last = _SEAL.search(data[-SEAL_SIZE:])
    if last is None:
        return data
    content = data[:-SEAL_SIZE]
    if hashlib.sha256(content).hexdigest().encode() != last[1]:
        raise ValueError("its contents do not have the checksum that they were written with")
    return content


def _numbers(file: h5py.File, name: str, dimensions: int | None = None) -> np.ndarray:
    """Return one array of numbers, refused where reading it could take more than the file has."""
    stored = file[name]
    if not isinstance(stored, h5py.Dataset) or stored.dtype.kind not in "biuf":
        raise ValueError(f"{name} is no array of numbers")
    if stored.id.get_storage_size() < stored.size * stored.dtype.itemsize:
        raise ValueError(f"{name} is larger than what the file holds of it")
    if dimensions is not None and stored.ndim != dimensions:
        raise ValueError(f"{name} has {stored.ndim} dimensions, not {dimensions}")
    return stored[()]


def _require_own(group: h5py.Group, depth: int = 0) -> None:
    """Refuse links, and arrays that lie in other files or are put together from others."""
    if depth > 1:
        raise ValueError("it has groups within groups")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is a link")
        stored = group[name]
        if isinstance(stored, h5py.Group):
            _require_own(stored, depth + 1)
        elif not isinstance(stored, h5py.Dataset):
            raise ValueError(f"{name} is no array")
        elif stored.external is not None or stored.is_virtual:
            raise ValueError(f"{name} is kept outside the file")


def _text_attribute(group: h5py.Group, name: str) -> str:
    value = group.attrs[name]
    value = value.decode() if isinstance(value, bytes) else value
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    return value


def _table(file: h5py.File, name: str, form: int) -> pd.DataFrame:
    if form == _UNSIGNED:
        stored = file["bayes_optlaws"][name]
        if not isinstance(stored, h5py.Dataset) or stored.shape != ():
            raise ValueError(f"{name} is no text")
        text = stored.asstr()[()]
        table = pd.read_csv(io.StringIO(text), index_col="__index__", dtype={"run_id": str})
        table.index.name = None
        return table
    return from_text(_numbers(file, f"bayes_optlaws/{name}", 1).tobytes().decode())


def _stats(file: h5py.File, group: str) -> xr.Dataset:
    """Return sampler statistics: what is numbers, by chain and draw or of the whole sample."""
    names = [n for n in file[group] if n not in ("chain", "draw")]
    found: dict[str, Any] = {}
    for name in names:
        stored = file[group].get(name)
        if not isinstance(stored, h5py.Dataset) or stored.dtype.kind not in "biuf":
            continue
        if stored.ndim in _STATS_DIMS:
            values = _numbers(file, f"{group}/{name}", stored.ndim)
            flag = stored.attrs.get("dtype") in ("bool", b"bool")
            found[name] = (_STATS_DIMS[stored.ndim], values.astype(bool) if flag else values)
    stored = {k: v for k, v in file[group].attrs.items() if not k.startswith("_")}
    attrs = {k: np.asarray(v).item() for k, v in stored.items() if np.size(v) == 1}
    out = xr.Dataset(found, attrs=attrs)
    coords = {d: np.arange(n) for d, n in out.sizes.items()}
    return out.assign_coords(coords)


def _noise(file: h5py.File, n: int) -> tuple[np.ndarray, float]:
    """Return the weights of the n finished runs, and the degrees of freedom of their noise."""
    weights = _numbers(file, "bayes_optlaws/run_weight", 1)
    if weights.size != n or not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError(f"run_weight must be {n} positive numbers")
    df = float(np.asarray(file["bayes_optlaws"].attrs["noise_df"]).item())
    if not df > 2:
        raise ValueError(f"noise_df must be above 2, not {df}")
    return weights, df


def _with_residuals(law: FittedLaw, meta: h5py.Group) -> FittedLaw:
    """Return the law with what was learned from its residuals."""
    near, shape = (json.loads(_text_attribute(meta, name)) for name in ("neighbours", "tails"))
    if near is not None:
        learned = Learned(**_positive(near))
        e = law.encoding
        if learned.share >= 1 or not (e.transfer and e.discrepancy.n_local):
            raise ValueError(f"neighbours do not fit the table: {near}")
        law = residuals.corrected(law, learned)
    if shape is not None:
        found = Tails(**{k: float(v) for k, v in shape.items()})
        if not found.df > 2:
            raise ValueError(f"tails must have more than 2 degrees of freedom: {shape}")
        law = replace(law, tails=found)
    return law


def _positive(stored: Mapping[str, Any]) -> dict[str, float]:
    numbers = {k: float(v) for k, v in stored.items()}
    if not all(np.isfinite(v) and v > 0 for v in numbers.values()):
        raise ValueError(f"positive numbers are needed, not {stored}")
    return numbers


def _law(file: h5py.File, *, sealed: bool) -> FittedLaw:
    _require_own(file)
    meta = file["bayes_optlaws"]
    form = int(np.asarray(meta.attrs["format"]).item())
    wrote = _text_attribute(meta, "package_version")
    options = json.loads(_text_attribute(meta, "options"))
    here = version("bayes-optlaws")
    if form not in (FORMAT, *_ALONE):
        known = ", ".join(map(str, _ALONE))
        raise _OtherFormat(
            f"format {form}, written by bayes_optlaws {printable(wrote)}; this version ({here}) "
            f"reads formats {known} and {FORMAT}: fit again, or use that version"
        )
    if form != _UNSIGNED and not sealed:
        raise ValueError("its checksum is missing")
    if wrote != here:
        warnings.warn(
            f"written by bayes_optlaws {printable(wrote)}, read by {here}: predictions can differ "
            "where the law's formulas have changed since; fit again to be sure",
            LawFileWarning,
            stacklevel=2,
        )
    runs = read_runs(_table(file, "table", form), mixed_groups=options.get("groups") is not None)
    priors = _priors(options["priors"])
    if form in _UNWEIGHTED:
        priors = replace(priors or Priors(), noise_df=np.inf)
    own_risk = _dataclass(DivergencePriors, options["divergence_priors"])
    given = {
        "features": options["features"],
        "transfer": options["transfer"],
        "divergence": own_risk if options["divergence"] and own_risk else options["divergence"],
        "exponents": options["exponents"],
        "priors": priors,
        "stage_prior": _dataclass(stages.StagePrior, options.get("stage_prior")),
        "covariates": options.get("covariates"),
        "groups": options.get("groups"),
        "residuals": options.get("residuals", False),
    }
    encoding = RunEncoding.from_runs(
        runs,
        features=given["features"],
        transfer=given["transfer"],
        exponents=given["exponents"],
        priors=given["priors"],
        covariates=given["covariates"],
        groups=given["groups"],
    )
    if form not in _UNWEIGHTED:
        encoding = encoding.weighted(*_noise(file, len(encoding.finished)))
    stage_runs = None
    if "stage_table" in meta:
        stage_runs = stages.read_stages(_table(file, "stage_table", form))
    posterior = file["posterior"]
    combination = _numbers(file, "posterior/combination", 2)
    chains, n = combination.shape

    def flat(name: str) -> np.ndarray:
        """Return draws of one parameter over all chains, the first axis."""
        values = _numbers(file, f"posterior/{name}")
        if values.shape[:2] != (chains, n):
            raise ValueError(f"{name} has shape {values.shape}, not one value a draw")
        return values.reshape(chains * n, -1)

    hyper = {k: flat(k) for k in _HYPER if k in posterior}
    n_fields, n_cells = len(encoding.data.fields), len(encoding.data.cells)
    total = chains * n
    over_cells = (flat("discrepancy") if n_fields else np.zeros((total, 0))).reshape(
        total, n_fields, n_cells if n_fields else 0
    )
    with_local = "local_correction" in posterior
    local = flat("local_correction") if with_local else np.zeros((total, 0))
    beta = _numbers(file, "bayes_optlaws/beta", 2)
    if beta.shape != (total, len(encoding.features.column_feature)):
        raise ValueError(f"beta has shape {beta.shape}, which does not fit the table")
    labels = ("divergence_direction", "divergence_column")
    draws = Draws(
        hyper,
        combination.reshape(-1).astype(np.int64),
        beta,
        over_cells,
        local,
        {
            k: flat(k).reshape(total, *posterior[k].shape[2:])
            for k in posterior
            if k.startswith("divergence_") and posterior[k].ndim >= 2 and k not in labels
        },
    )
    sample = Sample(
        draws, chains, _stats(file, "sample_stats"), float(np.asarray(meta.attrs["kept"]).item()),
        float(np.asarray(meta.attrs["pareto_k"]).item()),
        _stats(file, "divergence_stats") if "divergence_stats" in file else None,
        str(meta.attrs.get("method", "nuts")), str(meta.attrs.get("note", "")),
    )  # fmt: skip
    law = FittedLaw(
        encoding,
        given["priors"] or Priors(),
        sample,
        options["random_seed"],
        (own_risk or DivergencePriors()) if options["divergence"] else None,
        stage_runs,
        given["stage_prior"] or stages.StagePrior(),
        given,
    )
    return law if form in _ALONE else _with_residuals(law, meta)
