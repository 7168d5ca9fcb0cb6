"""Benchmarks that produce the documentation's tables and pictures: `python -m benchmarks.NAME`."""
