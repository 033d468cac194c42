"""Student-t noise against scipy's distribution, quadrature and simulation."""

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from bayes_optlaws.model import student_t
from bayes_optlaws.model.priors import Priors

DEGREES = [3.0, 4.0, 10.0, 100.0, np.inf]


def scaled(df):
    """Student-t of unit variance."""
    return stats.norm() if np.isinf(df) else stats.t(df, scale=np.sqrt((df - 2) / df))


@pytest.mark.parametrize("df", DEGREES)
def test_density_and_quantiles_are_those_of_a_scaled_student_t(df):
    z = np.array([-10.0, -1.0, 0.0, 0.3, 4.0])
    np.testing.assert_allclose(student_t.log_density(z, df), scaled(df).logpdf(z), rtol=1e-10)
    assert student_t.quantile(0.9, df) == pytest.approx(scaled(df).ppf(0.9), rel=1e-10)


def test_degrees_of_freedom_may_differ_from_run_to_run():
    df = np.array([4.0, np.inf, 10.0])
    found = student_t.log_density(np.ones(3), df)
    np.testing.assert_allclose(found, [scaled(d).logpdf(1.0) for d in df], rtol=1e-10)


@pytest.mark.parametrize("df", DEGREES)
@pytest.mark.parametrize("mean_sd", [0.0, 0.5, 3.0])
def test_a_normal_error_plus_noise_is_their_convolution(df, mean_sd):
    error = np.array([-8.0, -1.0, 0.0, 2.0])
    sds = np.full(4, mean_sd), np.full(4, 0.7)
    density = np.exp(student_t.log_density_around(error, *sds, df))
    below = student_t.probability_below(error, *sds, df)
    noise = scaled(df)
    for i, e in enumerate(error):
        if mean_sd == 0:
            expected = noise.pdf(e / 0.7) / 0.7, noise.cdf(e / 0.7)
        else:
            ends = e / 0.7 + np.array([-9.0, 9.0]) * mean_sd / 0.7
            expected = [
                quad(lambda z: f(e - 0.7 * z) * noise.pdf(z), *ends, points=[0], limit=400)[0]  # noqa: B023
                for f in (stats.norm(0, mean_sd).pdf, stats.norm(0, mean_sd).cdf)
            ]
            expected[1] += noise.cdf(ends[0])
        assert density[i] == pytest.approx(expected[0], rel=1e-4)
        assert below[i] == pytest.approx(expected[1], rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("df", [4.5, 10.0, np.inf])
def test_draws_have_the_distribution_and_unit_variance(df, rng):
    n = 40_000
    z = student_t.draw(rng, (n,), df)
    assert stats.kstest(z, scaled(df).cdf).pvalue > 1e-4
    spread = np.std(z**2) / np.sqrt(n)
    assert abs(np.mean(z**2) - 1) < 4.5 * spread


def test_the_weight_is_the_expected_precision_given_the_residual():
    """Bayes' rule for the precision, by quadrature."""
    for df, z in ((4.0, 0.0), (4.0, 3.0), (10.0, 8.0)):
        prior = stats.gamma(df / 2, scale=2 / (df - 2))

        def joint(x, z=z, prior=prior):
            return prior.pdf(x) * np.sqrt(x) * np.exp(-0.5 * x * z**2)

        whole = quad(joint, 0, 40, limit=400)[0]
        mean = quad(lambda x: x * joint(x), 0, 40, limit=400)[0] / whole  # noqa: B023
        assert student_t.expected_weight(np.array([z**2]), df)[0] == pytest.approx(mean, rel=1e-6)
    assert (student_t.expected_weight(np.array([0.0, 9.0]), np.inf) == 1).all()


@pytest.mark.parametrize("bad", [2.0, 0.0, np.nan, "4"])
def test_noise_without_variance_is_refused(bad):
    with pytest.raises(ValueError, match=r"noise_df must be a number above 2"):
        Priors(noise_df=bad)
    assert np.isinf(Priors().noise_df) and Priors(noise_df=4).noise_df == 4
