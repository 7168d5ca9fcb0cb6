"""Paths, atomic writes, strict JSON, and the starter assets."""
