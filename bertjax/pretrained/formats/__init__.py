"""Readers of checkpoint files, one per format."""
