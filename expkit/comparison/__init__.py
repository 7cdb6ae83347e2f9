"""Are two runs the same, and if not, where do they differ first.
Imports resimulation and all that stands below."""
