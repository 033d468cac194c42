"""Screening against sampling in full, and chains that go on until they pass."""

import numpy as np
import pytest
import xarray as xr
from arviz_stats.base import array_stats
from laws import encoded

from bayes_optlaws.inference import chains
from bayes_optlaws.inference import nuts as sampling
from bayes_optlaws.inference.density import HyperSpace

MANY = {
    "scale": (-0.3, -0.15, 0.15, 0.3), "mixed": (0.15, 0.3), "escape": (0.15, 0.3, 0.5),
    "cross": (0.15, 0.3),
}  # fmt: skip


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
    weight = sampling.combination_weights(space, space.split(x))
    assert weight.sum() == pytest.approx(1.0)
    whole = space.log_density(x)[0]
    for k in (int(weight.argmax()), 5):
        only = np.zeros(weight.size, dtype=bool)
        only[k] = True
        part = HyperSpace(law.encoding.data.restrict(only), law.priors).log_density(x)[0]
        # alone its prior probability is one, among all it is one over their number
        expected = part - np.log(weight.size) - whole
        assert np.log(weight[k]) == pytest.approx(expected, abs=1e-6)


def test_more_combinations_are_chosen_where_those_left_out_mattered(rng):
    """At the pilot's points the first 80 have all weight; at a few others the last ten have."""
    usual = np.full((64, 300), 1e-9)
    usual[:, :80] = rng.dirichlet(np.full(80, 50.0), 64)
    few = sampling.screened(usual)
    assert few.sum() == 64 and not few[80:].any()  # shares are even, though not near one
    tail = np.full((64, 300), 1e-9)
    tail[:, -10:] = 0.1
    more = sampling.screened(np.concatenate([usual, tail]), above=64, least=0.5)
    assert more.sum() == 128 and more[:80].all() and more[-10:].all()
    assert sampling.screened(np.full((8, 2000), 1 / 2000), above=1024).all()


def test_weights_that_move_next_to_nothing_are_left_out(pocket, rng, monkeypatch):
    """A few weights of 1.01 among thousands of ones have a tail, whose shape says nothing."""
    weight = np.ones(4000)
    weight[:40] += 0.01 * rng.pareto(0.8, 40).clip(max=3)
    assert sampling._unevenness(weight) < sampling.NEGLIGIBLE
    weight[:400] = 2.0
    assert sampling._unevenness(weight) == pytest.approx(
        0.5 * (0.9 * 0.1 / 1.1 + 0.1 * 0.9 / 1.1), rel=0.01
    )
    monkeypatch.setattr(sampling, "NEGLIGIBLE", 1.0)
    law = encoded(pocket, transfer=False, exponents=MANY)
    options = {"draws": 100, "tune": 100, "chains": 2, "progressbar": False}
    found = sampling.sample(law.encoding.data, law.priors, random_seed=1, **options)
    assert np.isnan(found.pareto_k)


def test_screened_sampling_agrees_with_sampling_in_full(pocket, monkeypatch):
    law = encoded(pocket, transfer=False, exponents=MANY)
    options = {"draws": 1000, "tune": 300, "chains": 4, "progressbar": False}
    # so few that the importance weights have work to do
    monkeypatch.setattr(sampling, "SCREEN_SIZES", (6,))
    monkeypatch.setattr(sampling, "MIN_EFFICIENCY", 0.2)
    monkeypatch.setattr(sampling, "NEGLIGIBLE", 1e-9)
    monkeypatch.setattr(sampling, "MAX_PARETO_K", 1.0)
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


class FakeNuts:
    """Draws that a test gives, in place of those of NUTS; what was asked for is kept."""

    def __init__(self, size, rng, diverging=()):
        self.size, self.rng, self.diverging = size, rng, list(diverging)
        self.asked = []

    def __call__(self, density, start, axes, random_seed, *, draws, chains, target_accept):
        call = len(self.asked)
        self.asked.append((chains, target_accept))
        x = self.rng.normal(size=(chains, draws, self.size)) + 100 * call
        flags = np.zeros((chains, draws), dtype=bool)
        if call < len(self.diverging):
            flags[self.diverging[call], 0] = True
        stats = {
            "diverging": (("chain", "draw"), flags),
            "energy": (("chain", "draw"), self.rng.normal(size=(chains, draws))),
        }
        return x, xr.Dataset(stats, {"chain": np.arange(chains), "draw": np.arange(draws)})


@pytest.mark.parametrize(
    ("diverging", "rerun", "left"), [([[]], 0, 0), ([[1, 3], []], 2, 0), ([[1, 3], [0]], 2, 1)]
)
def test_only_chains_with_divergent_transitions_are_run_again(
    pocket, rng, monkeypatch, diverging, rerun, left
):
    law = encoded(pocket, transfer=False, exponents=MANY)
    space = HyperSpace(law.encoding.data, law.priors)
    fake = FakeNuts(space.size, rng, diverging)
    monkeypatch.setattr(chains, "run_nuts", fake)
    monkeypatch.setattr(sampling, "failures", lambda figures: [])
    hyper, stats = sampling._sample_hyper(
        space, space.mean, np.eye(space.size), 0, draws=300, chains=4
    )
    first, again = sampling.TARGET_ACCEPT
    assert fake.asked == [(4, first)] + [(rerun, again)] * bool(rerun)
    assert first < again < 1
    x = np.log(hyper["noise_sd"]).reshape(4, 300)
    assert np.sum(x.mean(axis=1) > 50) == rerun  # draws of the second call
    assert stats["diverging"].sum() == left  # the gate sees what is left
    assert stats["energy"].shape == (4, 300)


@pytest.mark.parametrize(("draws", "calls"), [(300, 3), (50, 1)])
def test_chains_that_do_not_agree_are_made_longer(pocket, rng, monkeypatch, draws, calls):
    law = encoded(pocket, transfer=False, exponents=MANY)
    space = HyperSpace(law.encoding.data, law.priors)
    fake = FakeNuts(space.size, rng)
    monkeypatch.setattr(chains, "run_nuts", fake)
    verdicts = iter([["R-hat"], ["R-hat"], []])
    monkeypatch.setattr(sampling, "failures", lambda figures: next(verdicts))
    hyper, stats = sampling._sample_hyper(
        space, space.mean, np.eye(space.size), 0, draws=draws, chains=4
    )
    assert len(fake.asked) == calls  # with fewer draws than the gate wants, nothing would help
    assert hyper["noise_sd"].shape == (4 * draws, 1)
    assert stats["energy"].shape == (4, calls * draws)
    x = np.log(hyper["noise_sd"]).reshape(4, draws)
    assert len(set(np.round(x[0] / 100))) == calls  # thinned, from all that was drawn
