"""Decisions from a fitted law: rankings, plans of runs, suggestions."""
