"""Collectors stand between whoever makes rows and whoever keeps them; `session` records games through one.
Imports recovery and all that stands below."""
