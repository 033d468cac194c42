"""The statistical model: features, priors, discrepancy, noise, divergence, and a table encoded."""
