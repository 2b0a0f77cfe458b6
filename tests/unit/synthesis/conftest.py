"""The teacher that most tests ask."""

import pytest
from synthesis_teachers import RecordingTeacher


@pytest.fixture
def teacher():
    """A recording teacher whose answers are all clean."""
    with RecordingTeacher(dirt_share=0.0) as running:
        yield running
