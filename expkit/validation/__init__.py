"""Is a run what it claims to be: bytes, structure, and what the rows say.
Imports resimulation, rules and reading, and what stands below them."""
