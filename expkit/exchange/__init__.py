"""Runs into the formats of other tools, and back.
Imports torch, wrapping and all that stands below.

registry   formats by name and by suffix; the formats themselves are in expkit.formats
rows       the rows of runs in batches, as an export wants them
plan       what an export would write, and what it cannot carry
export     writing it, as a whole or not at all
shuffle    rows in random order by two passes over the disk
card       what stands beside an export, for people
importing  files into a run
foreign    columns of files that know nothing of expkit
building   a run of batches with all their keys
"""
