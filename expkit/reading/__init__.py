"""Runs that are open to be read: batches, samples, windows, epochs, the newest rows, answers, and what there is.
Imports queries and all that stands below.

    run_files, known_run, run    one run: its shard files, what is known of it, its rows
    runs, opening, asking        many runs as one, `open_run`, `expkit.query`
    readable                     what is offered alike of one run and of many
    split, follow, prioritized   parts by episode, rows as they come, samples that are not uniform
    summary, gaps                what there is, and whether rows are missing
"""
