"""Nothing half-done: tables let in have a finite model, interrupted work leaves no trace."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from laws import encoded

import bayes_optlaws as bo
from bayes_optlaws.inference import divergence_sampling
from bayes_optlaws.inference import nuts as sampling
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.runs.readers import read_runs

QUICK = {"draws": 150, "tune": 100, "chains": 2, "progressbar": False}


@st.composite
def run_tables(draw):
    """Valid run tables, also ones in which little or nothing varies."""
    n = draw(st.integers(5, 14))
    few = lambda low, high: st.one_of(  # noqa: E731
        st.floats(low, high).map(lambda v: [v] * n),
        st.lists(st.floats(low, high), min_size=n, max_size=n),
    )
    steps = np.floor(draw(few(20, 1e6)))
    batch = np.floor(draw(few(1, 1e7)))
    table = pd.DataFrame(
        {
            "n_params": np.floor(draw(few(10, 1e13))),
            "batch_tokens": batch,
            "steps": steps,
            "peak_lr": draw(few(1e-8, 10)),
            "warmup_steps": np.floor(np.array(draw(few(0, 0.5))) * steps),
            "schedule": draw(
                st.lists(st.sampled_from(["linear", "cosine", "constant"]), min_size=n, max_size=n)
            ),
            "final_loss": draw(few(1e-3, 20)),
        }
    )
    lost = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    table["diverged"] = np.array(lost) & (np.arange(n) >= 5)
    return table


@pytest.mark.filterwarnings("ignore::bayes_optlaws.runs.RunTableWarning")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(table=run_tables(), transfer=st.booleans())
def test_every_valid_table_has_a_finite_model(table, transfer):
    runs = read_runs(table, units={"n_params": 1})  # tiny as it may be: it is meant
    law = encoded(runs, transfer=transfer)
    space = HyperSpace(law.encoding.data, law.priors)
    value, gradient = space.log_density(space.mean)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.filterwarnings("ignore::bayes_optlaws.runs.RunTableWarning")
@settings(max_examples=60, deadline=None)
@example(hits=[(0, 4, "1e-300")])  # a doubt, said as a warning, and a table all the same
@given(
    hits=st.lists(
        st.tuples(
            st.integers(0, 19), st.integers(0, 7),
            st.sampled_from(
                ["", "nan", "inf", "-1", "0", "1e308", "1e-300", "x", "linear", "1,5", '"', "\x00"]
            ),
        ),
        max_size=4,
    )
)  # fmt: skip
def test_a_fuzzed_csv_is_refused_or_has_a_finite_model(tmp_path_factory, pocket, hits):
    names = [
        "n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps", "schedule", "final_loss",
        "diverged",
    ]  # fmt: skip
    table = pocket.iloc[::13][names].astype(object).reset_index(drop=True)
    for row, column, text in hits:
        table.iat[row % len(table), column] = text
    path = tmp_path_factory.mktemp("fuzz") / "runs.csv"
    table.to_csv(path, index=False)
    try:
        runs = read_runs(path)
    except bo.RunTableError:
        return
    law = encoded(runs)
    space = HyperSpace(law.encoding.data, law.priors)
    assert np.isfinite(space.log_density(space.mean)[0])


def test_a_fit_that_is_interrupted_leaves_an_unfitted_law(pocket, monkeypatch, tmp_path):
    law = bo.OptLaw(transfer=False, divergence=False)

    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sampling, "sample", stop)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        law.fit(pocket, **QUICK)
    with pytest.raises(RuntimeError, match="no posterior yet"):
        law.predict(pocket)
    with pytest.raises(RuntimeError, match="no posterior yet"):
        law.save(tmp_path / "law.nc")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), RuntimeError("no memory")])
@pytest.mark.parametrize(
    ("module", "where"), [(sampling, "sample"), (divergence_sampling, "sample_divergence")]
)
def test_a_second_fit_that_fails_leaves_the_first_posterior_whole(
    small_law, pocket, monkeypatch, module, where, fault
):
    law = bo.OptLaw.from_fitted(small_law.fitted)
    before = law.predict(pocket.iloc[:5])

    def stop(*args, **options):
        raise fault

    monkeypatch.setattr(sampling, "sample", lambda *args, **options: small_law.fitted.sample)
    monkeypatch.setattr(module, where, stop)
    other = pocket.iloc[::2].assign(final_loss=lambda t: 1.1 * t["final_loss"])
    with pytest.raises(type(fault)):
        law.fit(other, **QUICK)
    assert law.fitted is small_law.fitted
    pd.testing.assert_frame_equal(law.predict(pocket.iloc[:5]), before)


def test_a_refused_table_changes_nothing(small_law, pocket):
    law = bo.OptLaw.from_fitted(small_law.fitted)
    with pytest.raises(bo.RunTableError):
        law.fit(pocket.assign(peak_lr=-1.0), **QUICK)
    assert law.fitted is small_law.fitted


def test_two_threads_that_fit_one_law_do_not_mix(small_law, pocket, monkeypatch):
    """Both samplers are under way at once; what is left is one table with its own posterior."""
    law = bo.OptLaw(transfer=False, divergence=False)
    both = threading.Barrier(2, timeout=60)
    tables = [pocket, pocket.iloc[::2]]

    def sample(data, priors, **options):
        both.wait()
        draws = replace(small_law.fitted.draws, divergence={})
        draws = replace(draws, beta=np.full_like(draws.beta, options["random_seed"]))
        return replace(small_law.fitted.sample, draws=draws, divergence_stats=None)

    monkeypatch.setattr(sampling, "sample", sample)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda i: law.fit(tables[i], **QUICK, random_seed=i), range(2)))
    seed = law.random_seed
    assert len(law.runs) == len(tables[seed])
    assert (law.fitted.draws.beta == seed).all()


@pytest.mark.slow
def test_control_c_on_the_command_line_leaves_no_file(pocket, tmp_path):
    pocket.to_csv(tmp_path / "runs.csv", index=False)
    command = [sys.executable, "-m", "bayes_optlaws.cli.main", "fit", "runs.csv", "-o", "law.nc"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    time.sleep(8)
    assert process.poll() is None, process.stdout.read().decode()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0].decode()
    assert process.returncode != 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs.csv"]
    assert said.count("Traceback") <= 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_table_and_another_one_the_same_within_error(pocket):
    def predicted(seed):
        law = bo.OptLaw(transfer=False, divergence=False)
        law.fit(pocket, draws=400, tune=200, chains=4, random_seed=seed, progressbar=False)
        return law.predict(pocket.iloc[:20])

    first, again, other = predicted(1), predicted(1), predicted(2)
    pd.testing.assert_frame_equal(first, again, rtol=1e-9)
    se = first["loss_sd"] / np.sqrt(400)  # no more than one in four draws is independent
    assert np.all(np.abs(first["loss_mean"] - other["loss_mean"]) < 5 * se)
