"""How OpenMP threads wait for each other, in every process that the course starts.

PyTorch's CPU operators are short, and between two of them a thread either spins or sleeps. Endless
spinning is fastest on an idle machine and up to ten times slower as soon as another process wants
a core; sleeping at once never starves but costs a third of the speed. A short spin is close to the
best of both. One training step of the default model on two cores of a noisy host gave about 190, 260
and 320 tokens/s for sleeping, the short spin and endless spinning, and 215, 170 and 60-120 beside one
busy process.
"""

import os

ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


def with_defaults(environment: dict[str, str] | None = None) -> dict[str, str]:
    """Return an environment (this process's by default) with our settings where it has none."""
    return ENVIRONMENT | dict(os.environ if environment is None else environment)
