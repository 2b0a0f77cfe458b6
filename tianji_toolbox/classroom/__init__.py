"""For the class: the course as one run, batches of runs, reports, grading, and the review of data.

Not here: what is right or wrong in an exercise (``tianji_helpers.exercises``).
"""
