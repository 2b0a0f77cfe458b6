"""Helpers of the wishes course: from data synthesis to a fine-tuned model one can talk to.

The package has a ground floor (``paths``, ``records``, ``wishes``, ``plots``, ``doctor``, ``errors``)
and one wing for each part of the course: ``synthesis`` (notebook 01), ``dataset`` (02-04),
``training`` (05), ``serving`` (06) and ``classroom`` (running the course). Importing this package
imports none of them.
"""

__version__ = "0.1.0"
