"""Memory for rows on their way: the lock-free ring of blocks, plain memory, spilling to disk, one protocol.
Imports formats and all that stands below; none of the packages beside it."""
