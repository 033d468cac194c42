"""Finding, converting and downloading tables."""

import dataclasses
import hashlib
import http.server
import threading
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayes_optlaws as bo
from bayes_optlaws import datasets
from bayes_optlaws.datasets import catalog
from bayes_optlaws.runs.readers import RunTableWarning, read_runs

STEPLAW_ROWS = """\
h,ffnh,numh,numl,lr,bs,ti,loss,smooth loss,exp_name,D,N,D/N
960,9368,15,7,0.0003453,736,66342,2.41,2.40,a_lr3.453e-04_mlr1.00e-05,100000000000,214663680,465.8
960,9368,15,7,0.00276,736,66342,2.44,2.43,b_lr2.762e-03_mlr1.00e-05,100000000000,214663680,465.8
960,9368,15,7,0.0221,736,66342,4.50,4.41,c_lr2.210e-02_mlr1.00e-05,100000000000,214663680,465.8
960,9368,15,7,0.000977,2048,953,3.60,3.55,d_lr9.770e-04_mlr1.00e-05,4000000000,214663680,18.6
"""


@pytest.fixture
def steplaw_folder(tmp_path: Path, monkeypatch) -> Path:
    """Folder with few rows in the published form, as if these had been published."""
    record = datasets.describe("steplaw")
    digest = hashlib.sha256(STEPLAW_ROWS.encode()).hexdigest()
    published = dataclasses.replace(record, files=dict.fromkeys(record.files, digest))
    monkeypatch.setitem(catalog.RECORDS, "steplaw", published)
    folder = tmp_path / "tables" / "steplaw"
    folder.mkdir(parents=True)
    (folder / "dense_lr_bs_loss.csv").write_text(STEPLAW_ROWS)
    return folder


def test_every_shipped_table_loads_and_has_the_rows_it_says():
    for name in datasets.available(shipped=True):
        record = datasets.describe(name)
        table = datasets.load(name)
        assert len(table) == record.rows, name
        assert record.shipped and record.origin and record.licence
        if record.run_table:
            groups = sorted(set(table["group"]))
            kept = [read_runs(table, group=group, min_runs=1) for group in groups]
            assert sum(map(len, kept)) == record.rows


def test_public_name():
    assert bo.datasets is datasets
    assert set(datasets.available()) == set(
        datasets.available(shipped=True) + datasets.available(shipped=False)
    )


def test_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match="'poket' is no table; choose from pocket, "):
        datasets.load("poket")
    with pytest.raises(ValueError, match="'steplaw' has no curves; choose from pocket"):
        datasets.load_curves("steplaw")


def test_record_is_readable_as_text_and_html():
    record = datasets.describe("steplaw")
    assert "min(2000, steps / 2)" in str(record)
    assert "<td>1911</td>" in record._repr_html_()
    assert "sha256" not in repr(record).lower()


@pytest.mark.parametrize("place", ["data folder", "own folder", "environment", "cache"])
def test_published_file_is_found(steplaw_folder, monkeypatch, tmp_path, place):
    monkeypatch.delenv("BAYES_OPTLAWS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = None
    if place == "data folder":
        folder = steplaw_folder.parent
    elif place == "own folder":
        folder = steplaw_folder
    elif place == "environment":
        monkeypatch.setenv("BAYES_OPTLAWS_DATA", str(steplaw_folder.parent))
    else:
        (tmp_path / "cache").mkdir()
        steplaw_folder.parent.rename(tmp_path / "cache" / "bayes_optlaws")
    assert datasets.load("steplaw", folder=folder)["n_params"].tolist() == [214663680] * 4


def test_a_published_file_that_was_changed_is_refused(steplaw_folder):
    path = steplaw_folder / "dense_lr_bs_loss.csv"
    path.write_text(path.read_text().replace("2.41", "2.42"))
    with pytest.raises(ValueError, match="is not the published file of steplaw: its SHA-256 is"):
        datasets.load("steplaw", folder=steplaw_folder)


def test_steplaw_conversion(steplaw_folder):
    table = datasets.load("steplaw", folder=steplaw_folder)
    runs = read_runs(table, min_runs=3)
    assert runs["diverged"].tolist() == [False, False, True, False]  # 4.41 > 2.40 + 1
    assert runs["block"].tolist() == ["215M/100B"] * 3 + ["215M/4B"]
    assert runs["warmup_steps"].tolist() == [2000, 2000, 2000, 953 / 2]
    assert runs["tokens"].iloc[0] == 736 * 2048 * 66342
    assert runs["final_loss"].tolist() == [2.40, 2.43, 4.41, 3.55]
    assert (runs["schedule"] == "cosine").all() and (runs["min_lr"] == 1e-5).all()


def test_missing_table_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("BAYES_OPTLAWS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="marin-community/marin .*BAYES_OPTLAWS_DATA"):
        datasets.load("marin")
    with pytest.raises(FileNotFoundError, match="leave folder= out to download"):
        datasets.load("steplaw", folder=tmp_path)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def origin(tmp_path, monkeypatch):
    """Serve a folder over HTTP as the origin of Step Law, with an empty cache."""
    root = tmp_path / "origin"
    (root / "data").mkdir(parents=True)
    (root / "data" / "dense_lr_bs_loss.csv").write_text(STEPLAW_ROWS)

    def handler(*args: object) -> _Quiet:
        return _Quiet(*args, directory=root)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    record = dataclasses.replace(
        datasets.describe("steplaw"),
        files={"data/dense_lr_bs_loss.csv": hashlib.sha256(STEPLAW_ROWS.encode()).hexdigest()},
        base_url=f"http://127.0.0.1:{server.server_port}/",
    )
    monkeypatch.setitem(catalog.RECORDS, "steplaw", record)
    monkeypatch.delenv("BAYES_OPTLAWS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    yield root
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_is_cached(origin, tmp_path):
    first = datasets.load("steplaw")
    stored = tmp_path / "cache/bayes_optlaws/steplaw/dense_lr_bs_loss.csv"
    assert stored.read_text() == STEPLAW_ROWS
    (origin / "data" / "dense_lr_bs_loss.csv").unlink()
    pd.testing.assert_frame_equal(datasets.load("steplaw"), first)


def test_changed_file_is_refused(origin):
    (origin / "data" / "dense_lr_bs_loss.csv").write_text(STEPLAW_ROWS.replace("2.40", "2.04"))
    with pytest.raises(ValueError, match="does not match"):
        datasets.load("steplaw")


def test_failed_download_says_where_to_put_the_file(origin):
    (origin / "data" / "dense_lr_bs_loss.csv").unlink()
    with pytest.raises(ConnectionError, match="404.*put it at .*steplaw/dense_lr_bs_loss.csv"):
        datasets.load("steplaw")


def test_pocket_curves_follow_the_schedule_and_the_table():
    runs = read_runs(datasets.load("pocket-replicates"))
    curves = datasets.load_curves("pocket-replicates")
    for row in runs.iloc[[0, 9, 30]].itertuples():
        curve = curves[curves["run_id"] == row.run_id]
        assert curve["step"].tolist() == list(range(1, 1201))
        expected = bo.Schedule.linear(
            peak_lr=row.peak_lr, steps=row.steps, warmup_steps=row.warmup_steps
        ).lr(curve["step"] - 0.5)
        np.testing.assert_allclose(curve["lr"], expected, rtol=1e-12)


@pytest.mark.public
def test_every_public_table_loads_and_has_the_rows_it_says(public_folder):
    for name in datasets.available(shipped=False):
        record = datasets.describe(name)
        table = datasets.load(name, folder=public_folder)
        assert len(table) == record.rows, name
        assert table["run_id"].is_unique and table["diverged"].dtype == bool
        if record.run_table:
            for group in table["group"].unique():
                with warnings.catch_warnings():
                    # some Marin runs repeat another's loss to the last digit
                    warnings.filterwarnings("ignore", "(6 of 170|22 of 386) runs", RunTableWarning)
                    runs = read_runs(table, group=group)
                assert len(runs) == (table["group"] == group).sum()


@pytest.mark.public
def test_divergent_runs_of_the_public_tables(public_folder):
    """Counts of the tables' own notes; AdamW part of the Marin sweep."""
    for name, divergent in {"steplaw": 181, "marin": 25, "schaipp": 1}.items():
        assert datasets.load(name, folder=public_folder)["diverged"].sum() == divergent


@pytest.mark.public
def test_published_and_prepared_steplaw_agree(public_folder):
    raw = datasets.load("steplaw", folder=public_folder / "steplaw" / "raw")
    prepared = datasets.load("steplaw", folder=public_folder)
    pd.testing.assert_frame_equal(raw, prepared, rtol=1e-9, check_dtype=False)


@pytest.mark.public
def test_published_files_have_the_recorded_hashes(public_folder):
    for name in ("steplaw", "multi-power-law"):
        record = datasets.describe(name)
        files = catalog._published_files(record, public_folder)
        digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in files.values()]
        assert digests == list(record.files.values())


@pytest.mark.public
def test_published_and_prepared_multi_power_law_agree(public_folder, tmp_path):
    curves = public_folder / "multi_power_law" / "curves"
    raw = datasets.load("multi-power-law", folder=curves).set_index("run_id").sort_index()
    prepared = datasets.load("multi-power-law", folder=public_folder).set_index("run_id")
    pd.testing.assert_frame_equal(raw, prepared.sort_index(), check_dtype=False)


@pytest.mark.public
def test_multi_power_law_schedules_match_the_logged_learning_rate(public_folder):
    """Integral after warm-up by the trapezoid rule over the logged LR, and by our schedules."""
    # the batch plays no part here; one that nobody would doubt
    table = datasets.load("multi-power-law", folder=public_folder).assign(batch_tokens=1e6)
    runs = read_runs(table).set_index("run_id")
    ours = bo.schedules.integrals(runs.reset_index())
    for i, (run_id, curve) in enumerate(
        datasets.load_curves("multi-power-law", folder=public_folder).groupby("run_id", sort=False)
    ):
        row = runs.index.get_loc(run_id)
        # The log starts up to 128 steps after the warm-up and ends up to 128 before the end.
        steps = np.r_[2160.0, curve["step"], runs["steps"].iloc[row]]
        lr = np.r_[3e-4, curve["lr"], curve["lr"].iloc[-1]]
        assert ours.conv_cooldown[row] == pytest.approx(np.trapezoid(lr, steps), rel=0.008), i


@pytest.mark.public
def test_two_stage_runs_have_the_integral_of_the_logged_learning_rate(public_folder):
    """40,000 steps at the peak, then what was logged: 5.25e-4 (100k steps) or 3.75e-4 (200k)."""
    runs = datasets.load("schaipp", folder=public_folder)
    runs = runs[runs["schedule"] == "array"]
    for row in runs.itertuples():
        plateau = 5.25e-4 if row.steps == 100_000 else 3.75e-4
        held = row.steps * 0.8 - 41_000
        expected = (
            1e-3 * 39_700  # after the warm-up of 300 steps
            + (1e-3 + plateau) / 2 * 1_000
            + plateau * held
            + plateau / 2 * row.steps * 0.2
        )
        assert row.conv_cooldown == pytest.approx(expected, rel=1e-9)
        assert row.escape_cooldown == pytest.approx(
            (1e-3 - plateau) ** 2 / 1_000 + plateau**2 / (row.steps * 0.2), rel=1e-9
        )
