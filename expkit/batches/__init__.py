"""Rows of a run's blocks as batches: which rows, in what order, decoded where they are to be.
Imports settings and all that stands below.

    source     what batches are made of
    selection  which rows a condition wants
    timeline   all rows in order, and what follows what without a gap
    decode     pieces of blocks into arrays; the other modules say which: windows, epochs, addresses, next observations
    processed  the same through a pipeline
"""
