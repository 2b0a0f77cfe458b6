"""For the class: the course as one run, batches of runs, reports, grading, and the review of data."""
