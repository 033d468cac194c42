"""A fitted law and a plan as files, for the tests of the command line."""

import pandas as pd
import pytest


@pytest.fixture(scope="session")
def law_file(small_law, tmp_path_factory):
    return small_law.save(tmp_path_factory.mktemp("a folder with spaces") / "my law.nc")


@pytest.fixture
def plan(tmp_path):
    """Four candidates inside the pocket grid, in a file whose path has a space."""
    rows = [
        {"run_id": f"lr {lr:g} {kind}", "n_params": 115008, "tokens": 3686400,
         "batch_tokens": 1024, "peak_lr": lr, "warmup_steps": 300, "schedule": kind}
        for lr in (0.003, 0.02)
        for kind in ("linear", "cosine")
    ]  # fmt: skip
    path = tmp_path / "the plan.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path
