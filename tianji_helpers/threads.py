"""How OpenMP threads wait for each other, in every process that the course starts, and large pages.

PyTorch's CPU operators are short, and between two of them a thread either spins or sleeps. Endless
spinning is fastest on an idle machine and up to ten times slower as soon as another process wants
a core; sleeping at once never starves but costs a third of the speed. A short spin is close to the
best of both, and a longer one pays where nothing else computes. Training steps of the default model on
two cores, in turns, gave with a spin of 1,000, 3,000, 10,000 and 20,000 rounds 574, 633, 625 and 621
tokens/s on a calm machine (in another run 536 with 1,000 and 626 with 10,000), and 262, 181 and 102 with
1,000, 3,000 and 10,000 beside one busy process.

Memory in large pages (glibc asks the kernel for them where it may) makes the same steps 4 % faster.
"""

import os

ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_CALM = {"GOMP_SPINCOUNT": "10000"}
_BUSY_CORES = 0.25  # that others may use on a calm machine


def with_defaults(environment: dict[str, str] | None = None) -> dict[str, str]:
    """Return an environment (this process's by default) with our settings where it has none."""
    return ENVIRONMENT | dict(os.environ if environment is None else environment)


def for_long_run(environment: dict[str, str] | None = None) -> dict[str, str]:
    """Return the same for a process that computes for minutes.

    It gets large pages, and a longer spin if the machine is calm now, which is looked at for half a
    second. What somebody chose himself stays.
    """
    import psutil

    found = _LARGE_PAGES | with_defaults(environment)
    if any(found[name] != ENVIRONMENT[name] for name in ENVIRONMENT):
        return found
    busy = psutil.cpu_percent(interval=0.5) / 100 * psutil.cpu_count()
    return found | _CALM if busy < _BUSY_CORES else found
