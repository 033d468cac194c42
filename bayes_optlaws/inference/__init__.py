"""Posteriors: sampling, what is drawn from them, and the fitted law."""
