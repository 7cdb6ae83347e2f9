"""Rows of a run's blocks as batches: which rows, in what order, decoded where they are to be.
Imports pipeline, predicates, runs and formats, and what stands below them."""
