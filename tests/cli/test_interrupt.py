"""An interrupted fit leaves the law as it was: without a posterior."""

import os
import signal
import threading

import pytest

from bayes_optlaws.law import OptLaw


@pytest.fixture
def interruptible():
    """SIGINT raises; where it was ignored when Python started, as under nohup, it would not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_during_sampling_is_raised_and_no_draws_are_kept(pocket):
    law = OptLaw(divergence=False)
    timer = threading.Timer(4.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            law.fit(pocket, draws=50_000, tune=300, random_seed=1, progressbar=False)
    finally:
        timer.cancel()
    with pytest.raises(RuntimeError, match="fit"):
        law.predict(pocket)
