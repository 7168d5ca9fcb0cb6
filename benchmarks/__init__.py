"""Measurements behind the documentation's tables: `python -m benchmarks.NAME`."""
