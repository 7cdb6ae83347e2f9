"""Recorded games played again: to prove them, to watch them, and to know the states and rewards that they had.
Imports games and all that stands below."""
