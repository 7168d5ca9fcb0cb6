"""From files of text to batches: readers, datasets, tokenisation, masking, batching."""
