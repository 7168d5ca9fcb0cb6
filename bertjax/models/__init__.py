"""Encoders as pure functions of their parameters."""
