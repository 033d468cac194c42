"""Saving and loading: the same law comes back, or a clear refusal."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from bayes_optlaws import archive
from bayes_optlaws.archive import LawFileError
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
    pd.testing.assert_frame_equal(
        OptLaw.load(saved).runs, small_law.runs, check_dtype=False, check_index_type=False
    )


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


def test_an_interrupted_save_leaves_the_old_file_and_nothing_else(small_law, tmp_path, monkeypatch):
    path = small_law.save(tmp_path / "law.nc")
    before = path.read_bytes()

    def stop(self, target, **options):
        with open(target, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(xr.DataTree, "to_netcdf", stop)
    with pytest.raises(KeyboardInterrupt):
        small_law.save(path)
    with pytest.raises(KeyboardInterrupt):
        small_law.save(tmp_path / "new.nc")
    assert [p.name for p in tmp_path.iterdir()] == ["law.nc"]
    assert path.read_bytes() == before


def test_a_file_is_readable_without_the_package(saved):
    """Posterior and options in plain NetCDF."""
    with xr.open_datatree(saved, engine="h5netcdf") as tree:
        assert tree["posterior"]["noise_sd"].dims == ("chain", "draw")
        assert json.loads(tree["bayes_optlaws"].attrs["options"])["transfer"] is False
