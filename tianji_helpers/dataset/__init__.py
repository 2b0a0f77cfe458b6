"""From raw rounds to training files (notebooks 02-04).

``merge`` joins the rounds, ``clean`` puts them through ``rules`` and ``duplicates``, ``review`` shows a
person what that changed and ``decisions`` keeps the answers, ``splits`` holds a part out and looks for
leaks; ``self_cognition`` and ``ruozhiba`` make the two other data sets, ``download`` fetches published
ones; ``stages`` does what a notebook does in one call, for the notebook that comes later and finds the files
missing. ``formats``, which reads them all, lives on the ground floor.
"""

from tianji_helpers import formats as formats
