"""Settings from flags, environment, files and defaults, and the YAML they are written in.
Imports pipeline and all that stands below."""
