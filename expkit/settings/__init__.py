"""Settings from flags, environment, files and defaults, and the YAML they are written in.
Imports pipeline, for the processors that settings name, and what stands below it."""
