"""Are two runs the same, and if not, where do they differ first.
Imports reading, and what stands below it."""
