"""A grammar of wishes for the tests: as many different ones as a test wants, at once, clean or soiled.

No lesson sees it. It needs no model, so a test can have a teacher that answers any prompt (``server``),
rows by the million, or dirt whose kind is known.
"""

from phrasebook.book import Phrasebook

__all__ = ["Phrasebook"]
