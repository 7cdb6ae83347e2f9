"""What a row is: schema, keys, episodes, their layout in memory, the factory that makes rows of what a caller gives.
Imports kernels, system and errors."""
