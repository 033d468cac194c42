"""Run tables without fault, the faults of any other, and when two tables say the same."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws.runs.readers import RunTableError, read_runs

COMPARED = [
    "n_params", "tokens", "batch_tokens", "steps", "peak_lr", "warmup_steps", "schedule", "min_lr",
    "cooldown_start_step", "diverged",
]  # fmt: skip
SEQUENCE = 2048


def good(n=12):
    """A valid table in which every column of the template is given."""
    i = np.arange(n)
    return pd.DataFrame(
        {
            "run_id": [f"r{k}" for k in i],
            "n_params": 1e6 * (1 + i % 3),
            "tokens": 4e8,
            "batch_tokens": 4e5,
            "peak_lr": 1e-4 * (1 + i),
            "warmup_steps": 100,
            "schedule": "polygon",
            "min_lr": 1e-5,
            "decay_end_step": 300,
            "plateau_lr": 5e-5,
            "cooldown_start_step": 700,
            "final_loss": 3.0 - 0.01 * i,
            "diverged": False,
            "note": [{"k": k} for k in i],
        }
    ).astype({"tokens": object, "peak_lr": object, "schedule": object, "diverged": object})


def faults(table, read=read_runs, **options):
    with pytest.raises(RunTableError) as caught:
        read(table, **options)
    return caught.value.problems


def plain(n=24, seed=3):
    """A table of small language models: whole steps, cosine, linear and wsd, two diverged runs."""
    rng = np.random.default_rng(seed)
    size = rng.choice([5e7, 1e8, 4e8], n)
    batch = rng.choice([128, 256], n) * float(SEQUENCE)
    steps = np.round(20 * size / batch)
    kind = np.array(["cosine", "linear", "wsd"])[np.arange(n) % 3]
    lr = np.round(10 ** rng.uniform(-3.5, -2, n), 5)
    loss = 1.7 + 400 / size**0.34 + 0.1 * np.log(lr / 2e-3) ** 2 + rng.normal(0, 0.003, n)
    diverged = np.arange(n) % 12 == 5
    return pd.DataFrame(
        {
            "run_id": [f"run{k:03d}" for k in range(n)],
            "n_params": size,
            "tokens": steps * batch,
            "batch_tokens": batch,
            "peak_lr": lr,
            "warmup_steps": np.round(0.03 * steps),
            "schedule": kind,
            "min_lr": np.where(kind == "cosine", 0.1 * lr, 0.0),
            "cooldown_start_step": np.where(kind == "wsd", np.round(0.8 * steps), np.nan),
            "final_loss": np.where(diverged, np.nan, loss),
            "diverged": diverged,
        }
    )


def same(runs, truth, *, rtol=1e-9, loss_rtol=1e-9, but=()):
    """Assert that two run tables say the same of the same runs."""
    for name in COMPARED:
        if name in but:
            continue
        if truth[name].dtype.kind == "f":
            np.testing.assert_allclose(runs[name], truth[name], rtol=rtol, err_msg=name)
        else:
            assert runs[name].tolist() == truth[name].tolist(), name
    np.testing.assert_allclose(runs["final_loss"], truth["final_loss"], rtol=loss_rtol)


def asks(source, **answers):
    """Assert that a table is refused with these arguments, and return it read with them."""
    with pytest.raises(RunTableError) as caught:
        read_runs(source)
    error = caught.value
    assert error.answers == answers
    call = ", ".join(f"{name}={value!r}" for name, value in answers.items())
    assert f"bo.read_runs(..., {call})" in str(error)
    return read_runs(source, **answers)


def write(table: pd.DataFrame, path: Path) -> str:
    """Write a table as a file of comma-separated values; returns its path as text."""
    table.to_csv(path, index=False)
    return str(path)
