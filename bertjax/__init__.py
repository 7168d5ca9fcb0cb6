"""Fine-tune BERT with SMART in JAX."""
