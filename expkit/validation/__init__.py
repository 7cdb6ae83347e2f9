"""Is a run what it claims to be: bytes, structure, and what the rows say.
Imports comparison and all that stands below."""
