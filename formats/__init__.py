"""Bytes on disk: `shard` is the native format, the other modules decode foreign ones.
Imports row and all that stands below."""
