"""The one exception that the course raises on purpose."""

from tianji_helpers import redaction


class HidesSecrets(Exception):
    """An exception whose message, which may quote a server or a client, shows no key (see ``redaction``)."""

    def __init__(self, message: object = ""):
        super().__init__(redaction.hide(str(message)))


class CourseError(HidesSecrets):
    """Something that the person at the keyboard can mend.

    The message is Simplified Chinese and names the observed value, the limit and the fix. The
    command line prints it without a traceback and exits with status 1.
    """
