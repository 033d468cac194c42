"""Numeric cores over plain arrays; most are compiled by numba."""
