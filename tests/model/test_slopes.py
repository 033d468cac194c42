"""What is said of slopes: its figures against published laws, its rows against differences."""

import numpy as np
import pytest
from laws import encoded

from bayes_optlaws.inference.reference import draw_prior
from bayes_optlaws.model.priors import Priors
from bayes_optlaws.model.slopes import SlopePrior, best_of_scales, enlarged, slope_rows

CHINCHILLA = (1.69, 406.4, 410.7, 0.34, 0.28)  # Hoffmann et al., approach 3
EPOCH = (1.8172, 482.01, 2085.43, 0.3478, 0.3658)  # Besiroglu et al.


def log_slopes(law, n, d):
    """Slopes of the log of L = E + A / N**a + B / D**b in log N and log D."""
    e, a, b, alpha, beta = law
    terms = np.array([alpha * a * n**-alpha, beta * b * d**-beta])
    return -terms / (e + a * n**-alpha + b * d**-beta)


@pytest.mark.parametrize("law", [CHINCHILLA, EPOCH])
def test_figures_hold_the_published_laws(law):
    prior = SlopePrior()
    sd = prior.change_sd * abs(prior.mean)
    for n in (3e7, 1e8, 1e9):
        here = log_slopes(law, n, 20 * n)
        assert np.all(np.abs(here - prior.mean) < 2 * prior.relative_sd * abs(prior.mean))
        together = log_slopes(law, 10 * n, 200 * n) - prior.together * here
        alone = np.array([log_slopes(law, 10 * n, 20 * n)[0], log_slopes(law, n, 200 * n)[1]])
        assert np.all(np.abs(together) < 2.5 * sd)
        assert np.all(np.abs(alone - prior.alone * here) < 2.5 * sd)


def test_a_law_whose_slopes_are_as_said_fits_its_rows(pocket):
    """A power law in both: the slope at the table is right, changes miss by what they must."""
    prior = SlopePrior(mean=-0.1, alone=1.0, together=1.0)

    def power_law(table):
        return -0.1 * np.log(table[["n_params", "tokens"]].to_numpy(float)).sum(axis=1)[:, None]

    rows, y = slope_rows(power_law, pocket[~pocket["diverged"]], prior)
    np.testing.assert_allclose(rows[:, 0], y, atol=1e-8)


def test_slopes_are_those_of_the_best_run_of_each_scale(pocket):
    """A bad learning rate changes nothing: its runs may do with scale what they want."""
    runs = pocket[~pocket["diverged"]]
    best = best_of_scales(runs)
    least = runs.groupby(["n_params", "tokens"])["final_loss"].min()
    assert len(best) == len(least)
    np.testing.assert_allclose(np.sort(best["final_loss"]), np.sort(least))
    worse = runs.copy()
    rest = ~worse.index.isin(best.index)
    worse.loc[rest, "peak_lr"] *= 3.0

    def columns(table):
        return np.log(table[["n_params", "tokens", "peak_lr"]].to_numpy(float)).prod(1)[:, None]

    for found, expected in zip(
        slope_rows(columns, worse, SlopePrior()),
        slope_rows(columns, runs, SlopePrior()),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected)


def test_enlarged_runs_are_the_same_schedules_stretched(pocket):
    out = enlarged(pocket, np.log(2.0), np.log(3.0))
    np.testing.assert_allclose(out["n_params"], 2 * pocket["n_params"])
    for name in ("tokens", "steps", "warmup_steps"):
        np.testing.assert_allclose(out[name], 3 * pocket[name])
    assert out["peak_lr"].equals(pocket["peak_lr"])


def test_prior_predictive_falls_with_four_times_the_scale(pocket):
    """Of the default law's tuned runs, before any loss is read: N alone, tokens alone."""
    rng = np.random.default_rng(5)
    law = encoded(pocket)
    base = best_of_scales(law.encoding.finished)
    moved = [enlarged(base, np.log(4.0), 0.0), enlarged(base, 0.0, np.log(4.0))]
    columns = lambda t: law.encoding.standardizer(law.encoding.features.dictionary(t)).mean(axis=0)  # noqa: E731
    change = np.array([columns(t) - columns(base) for t in moved])
    beta = np.array([draw_prior(law.encoding.data, law.priors, rng).beta[0] for _ in range(120)])
    falls = (beta @ change.T < 0).mean(axis=0)
    # 0.95 less two standard errors of a share of 120
    assert np.all(falls > 0.95 - 2 * np.sqrt(0.95 * 0.05 / 120))


def test_no_prior_knowledge_is_no_rows(pocket):
    law = encoded(pocket, priors=Priors(slopes=SlopePrior(relative_sd=np.inf)))
    assert law.encoding.data.statistics.n[-1] == 0
    papers = encoded(pocket, exponents="paper")
    assert papers.encoding.data.statistics.n[-1] == 0


@pytest.mark.parametrize(
    "options", [{"mean": 0.1}, {"alone": 1.5}, {"together": 0.0}, {"change_sd": -1.0}]
)
def test_figures_that_are_no_falling_loss_are_refused(options):
    with pytest.raises(ValueError, match="SlopePrior"):
        SlopePrior(**options)
