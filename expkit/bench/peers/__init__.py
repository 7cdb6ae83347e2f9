"""Other libraries at the same work, on the same rows, in the same run: those that are installed.

    adapter    what a library is asked to do: a buffer in memory, a format on disk
    records    the formats that store one message of bytes a row
    beside     a library's pass beside expkit's own stage, so that the two alternate
    registry   which libraries there are, and the cells of the table they fill

The rest is one module a library, the only one that imports it, and only where it is used. Each is used as its own
documentation says for speed, by one thread, with checksums where it has them, and gets the rows as suits it best:
episode after episode, step after step.
"""

from expkit.bench.peers.registry import PEERS, find_peers, run_peers

__all__ = ["PEERS", "find_peers", "run_peers"]
