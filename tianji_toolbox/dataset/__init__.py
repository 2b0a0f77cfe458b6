"""Data sets at another scale: published ones, fetched, and cleaning over several machines."""
