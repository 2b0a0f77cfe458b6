"""Trainings compared: an examination on rows that none of them saw, and a judge from outside.

Not here: the figures themselves, which lesson 5 shows (``tianji_helpers.training.evaluation``).
"""
