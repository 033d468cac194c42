"""Laws that the study of decisions keeps."""

import pandas as pd
import pytest

from bayes_optlaws.evaluation.manifest import DamagedResultWarning, FolderError
from bayes_optlaws.law import OptLaw
from studies.decisions import fitted


def test_a_kept_law_is_read_when_it_is_whole_and_of_the_same_runs(
    small_law, pocket, tmp_path, monkeypatch
):
    fits = []

    def fit(law, runs, **options):
        fits.append(len(runs))
        return OptLaw.from_fitted(small_law.fitted)

    monkeypatch.setattr(OptLaw, "fit", fit)
    largest = (pocket["n_params"] == pocket["n_params"].max()).sum()
    law, held_out = fitted("pocket-n", None, tmp_path, draws=100)
    assert fits == [len(pocket) - largest] and len(held_out) == largest
    again, _ = fitted("pocket-n", None, tmp_path, draws=100)
    assert len(fits) == 1
    pd.testing.assert_frame_equal(again.summary(), law.summary())
    with pytest.raises(FolderError, match=r"options was .*100.*, now .*200"):
        fitted("pocket-n", None, tmp_path, draws=200)
    kept = tmp_path / "pocket-n" / "law.nc"
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.warns(DamagedResultWarning, match=r"law\.nc is damaged .* and is made again"):
        fitted("pocket-n", None, tmp_path, draws=100)
    assert len(fits) == 2
