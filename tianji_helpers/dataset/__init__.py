"""From raw rounds to training files (notebooks 02-04).

``merge`` joins the rounds, ``clean`` puts them through ``rules`` and ``duplicates``, ``review`` shows a
person what that changed and ``decisions`` keeps the answers, ``splits`` holds a part out and looks for
leaks; ``self_cognition`` and ``ruozhiba`` make the two other data sets; ``formats``
converts between the ways to write conversations down, ``download`` fetches published sets; ``stages``
does what a notebook does in one call, for the notebook that comes later and finds the files missing.
"""
