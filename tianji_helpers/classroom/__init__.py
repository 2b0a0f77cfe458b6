"""For the class: the course run as a whole, its exercises, and the upkeep of its stored outputs."""

from tianji_helpers.classroom.checks import check

__all__ = ["check"]
