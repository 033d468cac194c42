"""Compile the numba kernels once, in set-up, so that the first fit does not have to wait.

Run as ``python -m bayes_optlaws.cli.warm``. Where the compiled
code is kept says `bayes_optlaws.kernels.compiled`.
"""

from __future__ import annotations

import time
import warnings


def main() -> int:
    """Fit a part of the shipped grid with few draws; its numbers are thrown away.

    Which runs are fitted does not matter, but they must vary in the settings in which the whole
    grid does, for these decide what has to be compiled.
    """
    from bayes_optlaws.datasets import load
    from bayes_optlaws.inference.gate import ConvergenceWarning
    from bayes_optlaws.inference.odd_runs import OddRunWarning
    from bayes_optlaws.law import OptLaw

    start = time.perf_counter()
    runs = load("pocket")
    with warnings.catch_warnings():
        # of draws that are thrown away
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", OddRunWarning)
        OptLaw().fit(runs, draws=100, tune=50, chains=2, random_seed=1, progressbar=False)
    print(f"numba kernels compiled and cached ({time.perf_counter() - start:.0f} s)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
