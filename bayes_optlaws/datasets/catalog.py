"""Tables of training runs: shipped ones, and public ones that are found or downloaded.

The pocket grid and the paper's tables come with the package. Public tables never do: `load` looks
for them in ``folder=``, else in the folder that the environment variable ``BAYES_OPTLAWS_DATA``
names, else in ``~/.cache/bayes_optlaws`` (``$XDG_CACHE_HOME``), and else downloads those whose
source is a set of files, at a pinned commit and checked against SHA-256 (``pip install
'bayes-optlaws[public]'``). A data folder holds one folder a table (``steplaw``,
``marin_optimizer_sweep``, ...), with a prepared ``runs.csv`` or the published files in it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from bayes_optlaws.datasets.conversions import CONVERT, multi_power_law_raw, steplaw_raw
from bayes_optlaws.datasets.records import RECORDS, Dataset

__all__ = ["Dataset", "available", "describe", "load", "load_curves"]

_PACKAGE = Path(__file__).resolve().parents[1]
_VARIABLE = "BAYES_OPTLAWS_DATA"


def available(*, shipped: bool | None = None) -> list[str]:
    """Return the names that `load` takes.

    Parameters
    ----------
    shipped : bool, optional
        Only the tables that come with the package (True), or only the public ones (False).

    Returns
    -------
    list of str

    Examples
    --------
    >>> available(shipped=False)
    ['steplaw', 'marin', 'schaipp', 'multi-power-law', 'porian', 'modded-nanogpt', ...]
    """
    return [d.name for d in RECORDS.values() if shipped is None or d.shipped == shipped]


def describe(name: str) -> Dataset:
    """Return origin, licence, number of rows and caveats of one table.

    Parameters
    ----------
    name : str
        One of `available`.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        When there is no table of that name.

    Examples
    --------
    >>> print(describe("paper-table-7"))
    paper-table-7: runs and divergent runs by block of the training grid
    rows      7
    origin    arXiv 2409.04777, transcribed from its text, Table 7
    licence   facts quoted from the paper
    run table no
    shipped   yes
    - the text lost every learning rate: ...
    """
    try:
        return RECORDS[name]
    except KeyError:
        raise ValueError(
            f"name = {name!r} is no table; choose from {', '.join(available())}"
        ) from None


def load(name: str, *, folder: str | os.PathLike | None = None) -> pd.DataFrame:
    """Return one table of runs.

    Parameters
    ----------
    name : str
        One of `available`.
    folder : path, optional
        Where to look for a public table: a data folder, or the table's own folder. Nothing is
        downloaded when it is given. Shipped tables ignore it.

    Returns
    -------
    DataFrame
        Tables with ``describe(name).run_table`` are in the columns of the run table, ready for
        `bayes_optlaws.read_runs`; the others as they were published.

    Raises
    ------
    ValueError
        When there is no table of that name, or a published file does not have its SHA-256.
    FileNotFoundError
        When a public table is in none of the places and cannot be downloaded as files.
    ImportError
        When it has to be downloaded and pooch is not installed.
    ConnectionError
        When the download fails.

    Notes
    -----
    What each conversion assumes is in ``describe(name).caveats``. Step Law: the warm-up is not
    published, min(2000, steps / 2) is assumed; cosine to 1e-5; ``block`` is the (N, D) cell.
    Marin: AdamW rows with a loss. Schaipp: ``group`` is the data set, because losses on different
    data are not comparable; its four two-stage runs are ``array`` schedules.

    Examples
    --------
    >>> runs = load("pocket")
    >>> len(runs), int(runs["diverged"].sum())
    (260, 28)
    """
    record = describe(name)
    if record.shipped:
        return pd.read_csv(_shipped_root() / record.folder)
    return CONVERT[name](_read_public(record, folder))


def load_curves(name: str, *, folder: str | os.PathLike | None = None) -> pd.DataFrame:
    """Return the loss curves of a table, one row a logged step.

    Parameters
    ----------
    name : {"pocket", "pocket-replicates", "multi-power-law"}
        Table that has curves. Those of the pocket grid are training losses of every step.
    folder : path, optional
        As for `load`.

    Returns
    -------
    DataFrame
        Columns ``run_id``, ``step`` (optimizer steps done), ``lr`` and ``loss`` (nats per token).

    Raises
    ------
    ValueError
        When the table has no curves.

    Examples
    --------
    >>> curves = load_curves("pocket-replicates")
    >>> curves.shape
    (42000, 4)
    """
    if name in ("pocket", "pocket-replicates"):
        return pd.concat([_pocket_block(b) for _, b in _pocket_blocks(name)], ignore_index=True)
    if name == "multi-power-law":
        tables = []
        for file_name, path in _published_files(RECORDS[name], folder).items():
            curve = pd.read_csv(path).sort_values("step")
            size, rest = file_name.removesuffix(".csv").split("_", 1)
            curve.insert(0, "run_id", f"mpl-{size}M-{rest}")
            tables.append(curve[["run_id", "step", "lr", "loss"]])
        return pd.concat(tables, ignore_index=True)
    raise ValueError(
        f"name = {name!r} has no curves; choose from pocket, pocket-replicates, multi-power-law"
    )


def _shipped_root() -> Path:
    """Folder of the shipped tables: inside an installed package, else data/ of the checkout."""
    installed = _PACKAGE / "_data"
    return installed if installed.is_dir() else _PACKAGE.parent / "data"


def _pocket_blocks(name: str) -> list[tuple[str, pd.DataFrame]]:
    runs = load(name)
    return list(runs.groupby(runs["run_id"].str.rsplit("-", n=1).str[0], sort=False))


def _pocket_block(runs: pd.DataFrame) -> pd.DataFrame:
    file = str(runs["run_id"].iloc[0]).rsplit("-", 1)[0]
    with np.load(_shipped_root() / "pocket" / "curves" / f"{file}.npz") as stored:
        loss = stored["curve"].astype(float)
    steps = loss.shape[0]
    middle = np.arange(steps)[:, None] + 0.5  # train.py takes the LR in the middle of a step
    warmup = runs["warmup_steps"].to_numpy(dtype=float)
    shape = np.where(middle < warmup, middle / warmup, (steps - middle) / (steps - warmup))
    lr = runs["peak_lr"].to_numpy() * shape
    return pd.DataFrame(
        {
            "run_id": np.repeat(runs["run_id"].to_numpy(), steps),
            "step": np.tile(np.arange(1, steps + 1), len(runs)),
            "lr": lr.T.ravel(),
            "loss": loss.T.ravel(),
        }
    )


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "bayes_optlaws"


def _places(record: Dataset, folder: str | os.PathLike | None) -> list[Path]:
    """Folders in which the table may lie, in the order in which they are tried."""
    if folder is not None:
        given = Path(folder).expanduser()
        return [given / record.folder, given]
    named = os.environ.get(_VARIABLE)
    first = [Path(named).expanduser() / record.folder] if named else []
    return [*first, _cache() / record.folder]


def _stored_files(record: Dataset, place: Path) -> dict[str, Path] | None:
    """Return the published files in one folder by stored name, None when one is missing."""
    if not record.files:
        return None
    for below in (place, place / "raw", place / "curves"):
        found = {_stored_name(record, p): below / _stored_name(record, p) for p in record.files}
        if all(path.is_file() for path in found.values()):
            return found
    return None


def _stored_name(record: Dataset, path: str) -> str:
    """Return the name under which a published file is kept in the data folder."""
    name = PurePosixPath(path).name
    if record.name == "multi-power-law":  # the sizes repeat the file names: 25_cosine_24000.csv
        return PurePosixPath(path).parent.name.removeprefix("csv_") + "_" + name
    return name


def _read_public(record: Dataset, folder: str | os.PathLike | None) -> pd.DataFrame:
    for place in _places(record, folder):
        prepared = place / "runs.csv"
        if prepared.is_file():
            return pd.read_csv(prepared, low_memory=False)
    files = _published_files(record, folder)
    if record.name == "steplaw":
        return steplaw_raw(pd.read_csv(files["dense_lr_bs_loss.csv"]))
    return multi_power_law_raw(files)


def _published_files(record: Dataset, folder: str | os.PathLike | None) -> dict[str, Path]:
    places = _places(record, folder)
    for place in places:
        found = _stored_files(record, place)
        if found is not None:
            _require_published(record, found)
            return found
    looked = ", ".join(str(place) for place in places)
    if folder is not None or not record.files:
        raise FileNotFoundError(_not_found(record, looked, folder is not None))
    return _download(record)


def _require_published(record: Dataset, found: dict[str, Path]) -> None:
    """Refuse files whose contents are not those that were published."""
    for path, digest in record.files.items():
        stored = found[_stored_name(record, path)]
        with stored.open("rb") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
        if actual != digest:
            raise ValueError(
                f"{stored} is not the published file of {record.name}: its SHA-256 is "
                f"{actual[:12]}..., that of {record.base_url}{path} {digest[:12]}...; it is "
                "damaged or changed: delete it and fetch it again"
            )


def _not_found(record: Dataset, looked: str, folder_given: bool) -> str:
    text = f"{record.name} was not found in {looked}; "
    wanted = "a prepared runs.csv"
    if record.files:
        wanted += f" or the {len(record.files)} published file(s) of {record.origin}"
        if folder_given:
            return f"{text}put {wanted} there, or leave folder= out to download it"
    return (
        f"{text}its source ({record.origin}) is not published as files that can be downloaded "
        f"into a table; put {wanted}, made from it, into <data folder>/{record.folder} and name "
        f"the data folder by folder= or ${_VARIABLE}"
    )


def _download(record: Dataset) -> dict[str, Path]:
    """Fetch the published files into the cache, each checked against its SHA-256."""
    try:
        import pooch
    except ImportError as error:
        raise ImportError(
            f"downloading {record.name} needs pooch: pip install 'bayes-optlaws[public]', or give "
            f"folder= or ${_VARIABLE}"
        ) from error
    target = _cache() / record.folder
    found = {}
    for path, digest in record.files.items():
        name = _stored_name(record, path)
        url = record.base_url + path
        try:
            pooch.retrieve(url, known_hash=f"sha256:{digest}", fname=name, path=target)
        except OSError as error:
            raise ConnectionError(
                f"{record.name} could not be downloaded from {url} ({error}); fetch the file by "
                f"other means and put it at {target / name}"
            ) from error
        found[name] = target / name
    return found
