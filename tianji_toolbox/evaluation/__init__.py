"""Trainings compared: an examination on rows that none of them saw, and a judge from outside."""
