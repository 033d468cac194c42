"""Notes of the held-out evaluation: the page is that of the results, and parts are a variance's."""

from pathlib import Path

import numpy as np
import pandas as pd
from laws import ONE, dense_prediction, encoded, repeated, with_draws

from bayes_optlaws.runs.readers import read_candidates
from studies import held_out
from studies.pair_parts import said, variances

PAGE = Path(__file__).parents[2] / "docs/calibration.md"


def test_the_page_in_docs_is_that_of_the_results():
    page = held_out.result_page(held_out.read_tables())
    assert page == PAGE.read_text()
    assert "## The noise of a class, and one noise model" in page
    assert "## Pairs are said too modestly" in page


def test_parts_add_up_to_the_variance_of_a_pair_and_the_local_one_is_what_is_missed(pocket, rng):
    """At a new scale; oracle: the dense covariance, and the kernel less its inducing functions."""
    law = encoded(pocket, exponents=ONE)
    hyper, draws = repeated(law, 8000, rng)
    fitted = with_draws(law, draws)
    row = {"n_params": 5e5, "tokens": 6e6, "batch_tokens": 1024.0, "warmup_steps": 256.0}
    rows = [{**row, "schedule": "linear", "peak_lr": lr} for lr in (0.008, 0.02, 0.03)]
    table = read_candidates(pd.DataFrame(rows))
    first, second = np.array([0, 0, 1]), np.array([1, 2, 2])
    gap, parts = variances(fitted, table, first, second, rng)

    def of(cov):
        return cov[first, first] + cov[second, second] - 2 * cov[first, second]

    mean, cov = dense_prediction(law, hyper, table)
    total = of(cov) + parts["noise"]
    tolerance = 5 * np.sqrt(2 / len(draws.beta))
    np.testing.assert_allclose(sum(parts.values()), total, rtol=tolerance)
    sd = np.sqrt(of(cov) / len(draws.beta))
    assert (np.abs(gap - (mean[first] - mean[second])) < 5 * sd).all()
    d = law.encoding.discrepancy
    points = d.local_points(table)
    phi = d.local_functions(points)
    missed = hyper["local_sd"][0] ** 2 * of(d.local_missed(points, phi, points, phi))
    np.testing.assert_allclose(parts["local"], missed, rtol=tolerance)
    assert (parts["scale"] > 0).all() and (parts["informed"] > 0).all()


def test_a_pair_is_said_with_the_normal_probability():
    assert said(np.array([-1.0, 1.0]), np.array([1.0, 1.0])) == np.float64(0.8413447460685429)
