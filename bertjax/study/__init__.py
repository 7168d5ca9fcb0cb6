"""The study: methods by tasks by training-set sizes by seeds, compared with paired statistics."""
