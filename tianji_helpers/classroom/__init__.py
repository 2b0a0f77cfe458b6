"""Running the course: all notebooks in order, and the upkeep of their stored outputs."""
