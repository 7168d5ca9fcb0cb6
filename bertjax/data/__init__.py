"""Datasets, tokenisation and batches; imports no model code."""
