"""Damaged and unfinished runs made valid again, and what was lost told exactly.
Imports rewrite and all that stands below."""
