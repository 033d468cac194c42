"""Chains by NUTS: which are run again, and longer ones from all that was drawn."""

import numpy as np
import pytest
import xarray as xr

from bayes_optlaws.inference import chains


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


def longer(fake, monkeypatch, size=2, **options):
    monkeypatch.setattr(chains, "run_nuts", fake)
    return chains.longer_chains(
        lambda x: (0.0, x), np.zeros(size), np.eye(size), 0, accept=(0.85, 0.97), chains=4,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("diverging", "rerun", "left"), [([[]], 0, 0), ([[1, 3], []], 2, 0), ([[1, 3], [0]], 2, 1)]
)
def test_only_chains_with_divergent_transitions_are_run_again(
    rng, monkeypatch, diverging, rerun, left
):
    fake = FakeNuts(2, rng, diverging)
    x, stats = next(longer(fake, monkeypatch, first=300, draws=300))
    assert fake.asked == [(4, 0.85)] + [(rerun, 0.97)] * bool(rerun)
    assert np.sum(x.mean(axis=(1, 2)) > 50) == rerun  # draws of the second call
    assert stats["diverging"].sum() == left  # the gate sees what is left
    assert stats["energy"].shape == (4, 300)


def test_longer_chains_are_thinned_from_all_that_was_drawn(rng, monkeypatch):
    every = list(longer(FakeNuts(2, rng), monkeypatch, first=300, draws=300))
    for calls, (x, stats) in enumerate(every, start=1):
        assert x.shape == (4, 300, 2)
        assert stats["energy"].shape == (4, 300 + (calls - 1) * 150)
        assert len(set(np.round(x[0, :, 0] / 100))) == calls
    assert stats.sizes["draw"] == 300 * chains.MOST_LENGTHS


def test_statistics_of_thinned_chains_fit_the_draws_and_lose_no_divergence(rng):
    flags = np.zeros((4, 900), dtype=bool)
    flags[1, [7, 301]] = flags[3, 899] = True
    energy = rng.normal(size=(4, 900))
    stats = xr.Dataset(
        {"diverging": (("chain", "draw"), flags), "energy": (("chain", "draw"), energy)}
    )
    found = chains.thinned(stats, 600)
    assert dict(found.sizes) == {"chain": 4, "draw": 600}
    assert found["diverging"].sum(dim="draw").to_numpy().tolist() == [0, 2, 0, 1]
    np.testing.assert_array_equal(found["energy"], energy[:, chains.transition_of(900, 600)])
    assert chains.thinned(stats, 900) is stats
    assert chains.thinned(xr.Dataset({"pareto_k": 0.1}), 600).sizes == {}
