"""From raw rounds to training files (notebooks 02-04).

``merge`` joins the rounds, ``clean`` puts them through ``rules``, ``duplicates`` and ``openings`` (rows that
are no wishes through ``plain``), ``variety`` words requests in several ways, ``decisions`` keeps what a
person decided about single rows, ``splits`` holds a part out and looks for leaks; ``self_cognition``
and ``ruozhiba`` make the two other data sets; ``rebuild`` does what a notebook does in one call, for the
notebook that comes later and finds the files missing. ``formats``, which reads them all, lives on the ground
floor.
Not here: models, and any row that goes without a reason.
"""

from tianji_helpers import formats as formats
