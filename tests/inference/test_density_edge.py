"""The density where rounding would decide: columns that are one and the same."""

import numpy as np
import pytest
from laws import encoded

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.runs.readers import read_runs
from studies.candidate_fuzz import rate_follows_size


@pytest.fixture(scope="module")
def space():
    law = encoded(read_runs(rate_follows_size()), transfer=False)
    return HyperSpace(law.encoding.data, law.priors)


def test_no_evidence_exceeds_that_of_the_noise_alone(space):
    """The density of n responses is at most (2 pi sd^2)^(-n/2), whatever the mean."""
    rng = np.random.default_rng(0)
    x = space.mean + space.sd * rng.uniform(-6, 6, (60, space.mean.size))
    x[:, 0] = np.log(2e-5)  # so little noise that collinear columns lose all digits
    n = space.data.statistics.n
    most = -n[:-1].sum() * (x[:, 0] + 0.5 * np.log(2 * np.pi)) - 0.5 * n[-1] * np.log(2 * np.pi)
    values = space.log_densities(x)
    assert np.all(values <= most)
    single = [space.log_density(row) for row in x]
    assert all(value <= bound for (value, _), bound in zip(single, most, strict=True))
    assert all(np.isfinite(gradient).all() for _, gradient in single)


def test_curvature_is_finite_where_the_density_is_not(space):
    x = space.mean.copy()
    x[0] = np.log(2e-5)
    for shift in (0.0, 3.0, 6.0):
        factor = space.curvature_factor(x + shift * space.sd * (np.arange(x.size) > 0))
        assert np.isfinite(factor).all()
