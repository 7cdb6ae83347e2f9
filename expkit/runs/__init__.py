"""A run directory as storage, and nothing else: what lies where, locks, ledger, manifest, index, the writer.
Imports formats, row, system and errors."""
