"""For the class: the course as one run, batches of runs, reports, grading, and the review of data.

``course`` runs the lessons, ``batch`` and its kin many times over, each run in ``runs``; ``report`` shows
them. ``grading`` starts a submission in a ``sandbox`` (``jail`` locks it in, ``pupil`` runs it, ``watch``
counts what it takes), and ``gradebook`` writes the grades. ``assignment`` makes what students get,
``similarity`` compares what comes back, ``review`` shows rows to people, ``refresh`` stores the lessons'
outputs.
Not here: what is right or wrong in an exercise (``tianji_helpers.exercises``).
"""
