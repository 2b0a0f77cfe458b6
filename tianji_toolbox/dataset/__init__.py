"""Data sets at another scale: published ones, fetched, and cleaning over several machines.

Not here: rules of their own; what is clean is said in ``tianji_helpers.dataset``.
"""
