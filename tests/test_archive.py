"""Saving and loading: the same law comes back, or a clear refusal."""

import errno
import json
import os
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from bayes_optlaws import archive
from bayes_optlaws.archive import LawFileError, LawFileWarning
from bayes_optlaws.law import OptLaw
from bayes_optlaws.model.priors import LogNormal, Priors


@pytest.fixture(scope="module")
def saved(small_law, tmp_path_factory):
    return small_law.save(tmp_path_factory.mktemp("law") / "deep" / "law.nc")


def test_round_trip_keeps_draws_predictions_and_summary(small_law, saved, pocket):
    law = OptLaw.load(saved)
    a, b = small_law.fitted.sample, law.fitted.sample
    np.testing.assert_array_equal(a.draws.beta, b.draws.beta)
    np.testing.assert_array_equal(a.draws.combination, b.draws.combination)
    assert set(a.draws.hyper) == set(b.draws.hyper)
    for name, value in a.draws.hyper.items():
        np.testing.assert_array_equal(value, b.draws.hyper[name])
    assert (a.chains, a.kept) == (b.chains, b.kept)
    assert law.random_seed == small_law.random_seed
    candidates = pocket.iloc[::40]
    pd.testing.assert_frame_equal(small_law.predict(candidates), law.predict(candidates))
    pd.testing.assert_frame_equal(small_law.summary(), law.summary())
    assert law.diagnostics == small_law.diagnostics
    assert repr(law) == repr(small_law)


def test_round_trip_keeps_the_run_table(small_law, saved):
    back = OptLaw.load(saved).runs
    pd.testing.assert_frame_equal(back, small_law.runs)
    assert back.attrs == small_law.runs.attrs


def test_a_loaded_law_saves_to_the_same_law(saved, tmp_path):
    again = OptLaw.load(OptLaw.load(saved).save(tmp_path / "again.nc"))
    np.testing.assert_array_equal(
        again.fitted.sample.draws.beta, OptLaw.load(saved).fitted.sample.draws.beta
    )


def test_options_priors_and_labels_come_back(pocket, tmp_path):
    table = pocket.iloc[::2].copy()
    table.index = [f"row {i}" for i in range(len(table))]
    exponents = {"scale": (-0.3, 0.3), "mixed": (0.15,), "escape": (0.3,), "cross": (0.2,)}
    priors = Priors(noise_sd=LogNormal(0.004, 0.7), intercept_sd=2.0)
    law = OptLaw(transfer=False, features="paper", exponents=exponents, priors=priors)
    law.fit(table, draws=100, tune=100, chains=2, random_seed=5, progressbar=False)
    back = OptLaw.load(law.save(tmp_path / "law.nc"))
    assert back.priors == priors
    assert (back.features, back.transfer) == ("paper", False)
    assert {g: tuple(c) for g, c in back.exponents.items()} == exponents
    assert list(back.runs.index) == list(table.index)
    np.testing.assert_array_equal(back.fitted.sample.draws.beta, law.fitted.sample.draws.beta)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*nothing\.nc"):
        OptLaw.load(tmp_path / "nothing.nc")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(saved, tmp_path, share):
    whole = saved.read_bytes()
    part = tmp_path / "part.nc"
    part.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(LawFileError, match="not a law written by OptLaw.save, or it is damaged"):
        OptLaw.load(part)


def test_foreign_files_are_refused(tmp_path, pocket):
    text, other = tmp_path / "runs.nc", tmp_path / "other.nc"
    pocket.to_csv(text)
    xr.Dataset({"x": ("i", [1.0, 2.0])}).to_netcdf(other, engine="h5netcdf")
    for path in (text, other):
        with pytest.raises(LawFileError, match="not a law"):
            OptLaw.load(path)


def test_a_later_format_is_refused_with_its_version(small_law, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "FORMAT", 999)
    path = small_law.save(tmp_path / "law.nc")
    monkeypatch.undo()
    with pytest.raises(LawFileError, match="has format 999, written by bayes_optlaws"):
        OptLaw.load(path)


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(errno.ENOSPC, "disk full")])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    small_law, tmp_path, monkeypatch, fault
):
    path = small_law.save(tmp_path / "law.nc")
    before = path.read_bytes()

    def stop(handle):
        raise fault

    monkeypatch.setattr(os, "fsync", stop)
    for target in (path, tmp_path / "new.nc"):
        with pytest.raises(type(fault)):
            small_law.save(target)
    assert [p.name for p in tmp_path.iterdir()] == ["law.nc"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "labels",
    [
        ["1.1", "1.10"], ["01", "1"], ["1e3", "1000"], ["#N/A", "nan"], ["a,b", 'c"d'],
        ["TRUE", "true"], ["-", "+1"], ["é\u202e", "\x1b]0;x\x07"],
    ],
)  # fmt: skip
def test_run_ids_survive(small_law, tmp_path, labels):
    runs = small_law.runs.copy()
    runs["note"] = "x"
    runs.loc[runs.index[:2], ["run_id", "note"]] = [[x, x] for x in labels]
    runs.index = [*labels, *map(str, range(len(runs) - 2))]
    back = _with_runs(small_law, runs).save(tmp_path / "law.nc")
    pd.testing.assert_frame_equal(OptLaw.load(back).runs, runs)


def _with_runs(law, runs):
    """The same posterior beside a table of other labels."""
    runs.attrs = dict(law.runs.attrs)
    encoding = replace(law.fitted.encoding, runs=runs)
    return OptLaw.from_fitted(replace(law.fitted, encoding=encoding))


def test_dtypes_and_odd_columns_survive(small_law, tmp_path):
    runs = small_law.runs.copy()
    n = len(runs)
    runs["__index__"] = np.arange(n)
    runs["small"] = np.arange(n, dtype=np.int16)
    runs["single"] = np.linspace(0, 1, n, dtype=np.float32)
    runs["big"] = np.full(n, 2**63 + 1, dtype=np.uint64)
    runs["maybe"] = pd.array([1, None] * (n // 2), dtype="Int64")
    runs["kind"] = pd.Categorical(["b", "a"] * (n // 2), categories=["b", "a"], ordered=True)
    runs["day"] = pd.date_range("2026-01-01", periods=n, tz="Europe/Paris")
    mixed = np.empty(n, dtype=object)
    mixed[:] = [1, "1", 1.0, None, [0.5, (1, np.float64(2))], {"a": 1}, True, np.nan] + [0] * (
        n - 8
    )
    runs["mixed"] = mixed
    path = _with_runs(small_law, runs).save(tmp_path / "law.nc")
    back = OptLaw.load(path).runs
    pd.testing.assert_frame_equal(back, runs)
    assert [type(c) for c in back["mixed"]] == [type(c) for c in mixed]


def test_what_cannot_be_stored_is_refused_before_anything_is_replaced(small_law, tmp_path):
    path = small_law.save(tmp_path / "law.nc")
    before = path.read_bytes()
    runs = small_law.runs.copy()
    runs["odd"] = [object() for _ in range(len(runs))]
    with pytest.raises(ValueError, match="column 'odd' holds a object, which cannot be stored"):
        _with_runs(small_law, runs).save(path)
    assert path.read_bytes() == before


def test_one_flipped_bit_or_zeroed_page_is_refused(saved, tmp_path, rng):
    whole, path = saved.read_bytes(), tmp_path / "law.nc"
    for i in rng.integers(len(whole), size=60):
        flipped, page = bytearray(whole), bytearray(whole)
        flipped[i] ^= 1 << int(rng.integers(8))
        start = i // 4096 * 4096
        page[start : start + 4096] = bytes(len(page[start : start + 4096]))
        for damaged in (flipped, page):
            if bytes(damaged) != whole:
                path.write_bytes(damaged)
                with pytest.raises(LawFileError, match="or it is damaged"):
                    OptLaw.load(path)


def _crafted(saved, path, change):
    """A law file that someone has changed and sealed again."""
    path.write_bytes(saved.read_bytes()[: -archive.SEAL_SIZE])
    with h5py.File(path, "a") as file:
        change(file)
    data = path.read_bytes()
    path.write_bytes(archive.seal(data))
    return path


def _replace(file, name, **options):
    del file[name]
    return file.create_dataset(name, **options)


def _set_options(file, **changes):
    attrs = file["bayes_optlaws"].attrs
    attrs["options"] = json.dumps(json.loads(attrs["options"]) | changes)


LEARNED = {
    "share": 0.5, "scale_length": 0.3, "setting_length": 0.5, "gain": 9.0, "standard_error": 2.0,
}  # fmt: skip


def _set_neighbours(file, value):
    file["bayes_optlaws"].attrs["neighbours"] = json.dumps(value)


def _link(file, name, link):
    del file[name]
    file[name] = link


CRAFTED = {
    "no options": lambda f: f["bayes_optlaws"].attrs.__delitem__("options"),
    "options no JSON": lambda f: f["bayes_optlaws"].attrs.__setitem__("options", "{"),
    "options a list": lambda f: f["bayes_optlaws"].attrs.__setitem__("options", "[]"),
    "unknown exponents": lambda f: _set_options(f, exponents="none"),
    "exponents a number": lambda f: _set_options(f, exponents=3),
    "unknown features": lambda f: _set_options(f, features="all"),
    "priors of another shape": lambda f: _set_options(f, priors={"nothing": 1}),
    "prior a text": lambda f: _set_options(f, priors={"noise_sd": "x"}),
    "stage prior a text": lambda f: _set_options(f, stage_prior="x"),
    "format a text": lambda f: f["bayes_optlaws"].attrs.__setitem__("format", "x"),
    "neighbours a list": lambda f: _set_neighbours(f, [1.0]),
    "neighbours of other numbers": lambda f: _set_neighbours(f, {"share": 0.5}),
    "a share above one": lambda f: _set_neighbours(f, LEARNED | {"share": 1.5}),
    "tails a list": lambda f: f["bayes_optlaws"].attrs.__setitem__("tails", "[1.0]"),
    "tails without a variance": lambda f: f["bayes_optlaws"].attrs.__setitem__(
        "tails", '{"df": 2.0, "gain": 9.0}'
    ),
    "no tails": lambda f: f["bayes_optlaws"].attrs.__delitem__("tails"),
    "no neighbours": lambda f: f["bayes_optlaws"].attrs.__delitem__("neighbours"),
    "no table": lambda f: f["bayes_optlaws"].__delitem__("table"),
    "empty table": lambda f: _replace(f, "bayes_optlaws/table", data=np.zeros(0, np.uint8)),
    "table no JSON": lambda f: _replace(f, "bayes_optlaws/table", data=np.zeros(9, np.uint8)),
    "table of text": lambda f: _replace(f, "bayes_optlaws/table", data="run_id\n1"),
    "no draws": lambda f: f["bayes_optlaws"].__delitem__("beta"),
    "draws of another shape": lambda f: _replace(f, "bayes_optlaws/beta", data=np.zeros((2, 2))),
    "no combination": lambda f: f["posterior"].__delitem__("combination"),
    "no posterior": lambda f: f.__delitem__("posterior"),
    "no statistics": lambda f: f.__delitem__("sample_stats"),
    "hyper-parameters of another shape": lambda f: _replace(
        f, "posterior/noise_sd", data=np.zeros((4, 7))
    ),
    "hyper-parameters as text": lambda f: _replace(f, "posterior/noise_sd", data="x"),
    "a group for an array": lambda f: (f["posterior"].__delitem__("noise_sd"),
                                       f.create_group("posterior/noise_sd")),
    "external link": lambda f: _link(
        f, "posterior/noise_sd", h5py.ExternalLink("/etc/passwd", "/x")
    ),
    "soft link": lambda f: _link(f, "posterior/noise_sd", h5py.SoftLink("/posterior/intercept")),
    "external storage": lambda f: _replace(
        f, "posterior/noise_sd", shape=(4, 400), dtype="f8", external=[("/etc/passwd", 0, 12800)]
    ),
    "2.8 GB in few bytes": lambda f: _replace(
        f, "posterior/noise_sd", shape=(4, 400, 218750), dtype="f8", chunks=(4, 400, 625),
        compression="gzip", fillvalue=0.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_file_is_one_clear_error(saved, tmp_path, kind):
    path = _crafted(saved, tmp_path / "law.nc", CRAFTED[kind])
    with pytest.raises(LawFileError, match="is not a law written by OptLaw.save, or it is damaged"):
        OptLaw.load(path)


def test_the_format_before_has_no_correction_from_neighbours(saved, tmp_path):
    def older(file):
        attrs = file["bayes_optlaws"].attrs
        attrs["format"] = 5
        options = json.loads(attrs["options"])
        del attrs["neighbours"], attrs["tails"], options["residuals"]
        attrs["options"] = json.dumps(options)

    law = OptLaw.load(_crafted(saved, tmp_path / "law.nc", older))
    assert law.fitted.neighbours is None and law.residuals is False


def test_a_file_without_its_checksum_is_refused(saved, tmp_path):
    path = tmp_path / "law.nc"
    path.write_bytes(saved.read_bytes()[: -archive.SEAL_SIZE])
    with pytest.raises(LawFileError, match="checksum is missing"):
        OptLaw.load(path)


def test_a_law_of_another_version_says_so(saved, tmp_path):
    path = _crafted(
        saved, tmp_path / "law.nc",
        lambda f: f["bayes_optlaws"].attrs.__setitem__("package_version", "0.0.7"),
    )  # fmt: skip
    with pytest.warns(LawFileWarning, match=r"written by bayes_optlaws 0\.0\.7, read by"):
        OptLaw.load(path)


def test_a_file_is_readable_without_the_package(saved):
    """Posterior and options in plain NetCDF."""
    with xr.open_datatree(saved, engine="h5netcdf") as tree:
        assert tree["posterior"]["noise_sd"].dims == ("chain", "draw")
        assert json.loads(tree["bayes_optlaws"].attrs["options"])["transfer"] is False
