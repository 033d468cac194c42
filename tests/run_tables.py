"""A run table without fault, and the faults of any other: for the tests of reading."""

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws.runs.readers import RunTableError, read_runs


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
