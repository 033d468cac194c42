"""Screening against sampling in full, and a gate that fails on anything it cannot judge."""

import numpy as np
import pytest
import xarray as xr
from arviz_stats.base import array_stats
from laws import encoded

from bayes_optlaws.inference import nuts as sampling
from bayes_optlaws.inference.density import HyperSpace

GOOD = {"rhat": 1.005, "ess_bulk": 900.0, "ess_tail": 500.0, "divergent": 0.0, "bfmi": 0.9}
MANY = {
    "scale": (-0.3, -0.15, 0.15, 0.3), "mixed": (0.15, 0.3), "escape": (0.15, 0.3, 0.5),
    "cross": (0.15, 0.3),
}  # fmt: skip


def test_the_gate_passes_good_figures():
    assert sampling.failures(GOOD) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("rhat", 1.011), ("ess_bulk", 399.0), ("ess_tail", 399.0), ("divergent", 1.0), ("bfmi", 0.29)],
)
def test_the_gate_fails_on_each_figure_and_on_nan(name, value):
    for bad in (value, np.nan):
        assert len(sampling.failures({**GOOD, name: bad})) == 1


def test_diagnosis_sees_a_chain_that_is_elsewhere_and_a_constant_one(rng):
    stats = xr.Dataset(
        {
            "energy": (("chain", "draw"), rng.normal(size=(4, 200))),
            "diverging": (("chain", "draw"), np.zeros((4, 200), dtype=bool)),
        }
    )
    x = rng.normal(size=(4, 200, 2))
    assert sampling.diagnose({"x": x}, stats)["rhat"] < 1.05
    away = x.copy()
    away[0, :, 1] += 3
    figures = sampling.diagnose({"x": away}, stats)
    assert figures["rhat"] > 1.2 and figures["ess_bulk"] < 100
    stuck = np.ones((4, 200))
    with np.errstate(all="ignore"):  # what cannot be computed comes back as nan
        assert sampling.failures(sampling.diagnose({"x": stuck}, stats))
    stats["diverging"][1, 7] = True
    assert sampling.diagnose({"x": x}, stats)["divergent"] == 1


def test_systematic_resampling_takes_each_draw_its_expected_number_of_times(rng):
    weight = rng.dirichlet(np.ones(50))
    index = sampling._systematic(weight, rng)
    count = np.bincount(index, minlength=50)
    assert count.sum() == 50
    assert np.all(np.abs(count - 50 * weight) < 1 + 1e-9)
    np.testing.assert_array_equal(sampling._systematic(np.ones(8), rng), np.arange(8))


def test_combination_weights_are_those_of_the_evidence(pocket, rng):
    law = encoded(pocket, transfer=False, exponents=MANY)
    space = HyperSpace(law.encoding.data, law.priors)
    x = space.mode()
    weight = sampling.combination_weights(space, x)
    assert weight.sum() == pytest.approx(1.0)
    whole = space.log_density(x)[0]
    for k in (int(weight.argmax()), 5):
        only = np.zeros(weight.size, dtype=bool)
        only[k] = True
        part = HyperSpace(law.encoding.data.restrict(only), law.priors).log_density(x)[0]
        # alone its prior probability is one, among all it is one over their number
        expected = part - np.log(weight.size) - whole
        assert np.log(weight[k]) == pytest.approx(expected, abs=1e-6)


def test_screened_sampling_agrees_with_sampling_in_full(pocket, monkeypatch):
    law = encoded(pocket, transfer=False, exponents=MANY)
    options = {"draws": 1000, "tune": 300, "chains": 4, "progressbar": False}
    # so few that the importance weights have work to do
    monkeypatch.setattr(sampling, "SCREEN_SIZES", (6,))
    monkeypatch.setattr(sampling, "MIN_EFFICIENCY", 0.2)
    screened = sampling.sample(law.encoding.data, law.priors, random_seed=1, **options)
    monkeypatch.setattr(sampling, "SCREEN_SIZES", ())
    full = sampling.sample(law.encoding.data, law.priors, random_seed=2, **options)
    assert screened.kept <= 6 / 48 < full.kept == 1.0
    assert np.isfinite(screened.pareto_k)
    assert np.isnan(full.pareto_k)
    used = full.draws.beta.std(axis=0) > 0
    pairs = [(screened.draws.beta[:, used], full.draws.beta[:, used])]
    pairs += [(np.log(screened.draws.hyper[k]), np.log(full.draws.hyper[k])) for k in
              ("noise_sd", "coefficient_sd")]  # fmt: skip
    exponent = [
        law.encoding.data.tree.candidate_index(s.draws.combination).astype(float)[:, :]
        for s in (screened, full)
    ]
    pairs.append(tuple(e + 1e-9 * np.arange(len(e))[:, None] for e in exponent))
    for a, b in pairs:
        for j in range(a.shape[1]):
            x, y = a[:, j].reshape(4, -1), b[:, j].reshape(4, -1)
            error = np.hypot(array_stats.mcse(x, method="mean"), array_stats.mcse(y, method="mean"))
            # resampling repeats draws, which the standard error does not see in full
            assert abs(x.mean() - y.mean()) < 5 * np.sqrt(2) * error + 1e-4


def test_the_same_seed_gives_the_same_draws(pocket):
    law = encoded(pocket, transfer=False, exponents=MANY)
    options = {"draws": 100, "tune": 100, "chains": 2, "progressbar": False}
    a, b, c = (
        sampling.sample(law.encoding.data, law.priors, random_seed=s, **options).draws
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(a.beta, b.beta)
    assert not np.array_equal(a.beta, c.beta)


@pytest.mark.parametrize("diverging", [[False], [True, False], [True, True]])
def test_divergent_transitions_are_sampled_again_once_with_shorter_steps(
    pocket, monkeypatch, diverging
):
    law = encoded(pocket, transfer=False, exponents=MANY)
    space = HyperSpace(law.encoding.data, law.priors)
    asked = []

    def nuts(density, start, axes, random_seed, *, target_accept):
        asked.append(target_accept)
        stats = xr.Dataset({"diverging": (("chain", "draw"), [[False, diverging[len(asked) - 1]]])})
        return np.full((1, 2, start.size), float(len(asked))), stats

    monkeypatch.setattr(sampling, "_nuts", nuts)
    hyper, stats = sampling._sample_hyper(space, space.mean, 0)
    assert asked == [sampling.TARGET_ACCEPT, sampling.SHORTER_STEPS][: len(diverging)]
    assert sampling.TARGET_ACCEPT < sampling.SHORTER_STEPS < 1
    # what is returned is the last sample, and if that diverged the gate sees it
    assert hyper["noise_sd"][0, 0] == pytest.approx(np.exp(len(diverging)))
    assert bool(stats["diverging"].any()) is diverging[-1]
