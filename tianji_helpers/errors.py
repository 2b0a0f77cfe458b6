"""The one exception that the course raises on purpose."""


class CourseError(Exception):
    """Something that the person at the keyboard can mend.

    The message is Simplified Chinese and names the observed value, the limit and the fix. The
    command line prints it without a traceback and exits with status 1.
    """
