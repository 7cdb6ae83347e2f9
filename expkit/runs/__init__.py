"""A run directory as storage, and nothing else: what lies where, locks, ledger, manifest, index, the writer.
Imports formats and all that stands below; none of the packages beside it.
"""
