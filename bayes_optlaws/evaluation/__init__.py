"""Held-out evaluation: protocols, metrics, simulation-based calibration."""
