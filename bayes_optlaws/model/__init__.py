"""The statistical model: features, priors, discrepancy, noise, divergence, and a table encoded."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
