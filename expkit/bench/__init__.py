"""How fast each part is on this machine, beside what the machine itself can do.
Imports exchange and all that stands below.

    stage       what is measured: a small registered function that makes a Trial
    stages/     the stages, by part of the way a row travels
    workloads   the rows they run on: real self-play, CartPole, noise
    reference   the limit that stands beside a stage: NumPy columns, plain zstd blocks
    measure     repeated runs, medians with 95% intervals, processor time, memory
    suite       which stages to run, and their results as a Report
    baseline    a Report kept from before, and what has become slower since
    scale       cost per row from few rows to many, from one shard to thousands
    peers/      other libraries on the same rows, those that are installed

Only ratios are judged: what a machine shared with others does in seconds says little. A later part brings its own
stages by a module beside those in `stages/`.
"""
