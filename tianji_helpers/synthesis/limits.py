"""Requests and tokens a minute, kept by even spacing.

A bucket that may be emptied at once would let twice the limit into the first minute and run into the
provider's own limit. So each request moves the next one back by its share of a minute: no window of
sixty seconds holds more than ``rpm`` requests, nor more than ``tpm`` tokens and one request.
"""


class Pace:
    """When the next request may go. rpm, tpm: requests and tokens a minute; 0 is no limit.

    Time is handed in (monotonic seconds), so that tests need not wait.

    >>> pace = Pace(rpm=60)
    >>> [pace.reserve(100, now=5.0) for _ in range(3)]
    [5.0, 6.0, 7.0]
    """

    def __init__(self, rpm: float = 0, tpm: float = 0):
        self._request = 60 / rpm if rpm else 0.0  # seconds that a request, a token takes
        self._token = 60 / tpm if tpm else 0.0
        self._next_request = self._next_token = 0.0

    def reserve(self, tokens: float, now: float) -> float:
        """Return the moment at which a request of about ``tokens`` tokens may be sent."""
        moment = max(now, self._next_request, self._next_token)
        self._next_request = moment + self._request
        self._next_token = moment + tokens * self._token
        return moment

    def correct(self, tokens: float) -> None:
        """Say by how many tokens a reservation was too small (below 0: too large)."""
        self._next_token += tokens * self._token
