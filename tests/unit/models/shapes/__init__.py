"""Recorded examples of what other projects write, each with its source."""
