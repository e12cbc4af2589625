"""The memory that a device, or the machine, has for this process."""

from contextlib import suppress
from pathlib import Path

import torch

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def available_bytes(device: torch.device) -> float | None:
    """Return the bytes that this process may use in total, with those that it uses already; None where none says so.

    On a CPU this is what the system calls available, or the limit of the container if that is less.
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    available = _of_proc("/proc/meminfo", "MemAvailable:")
    if available is None:
        return None
    with suppress(OSError, ValueError):  # no such file, or "max"
        return min(available + process_bytes(), float(_CONTAINER_LIMIT.read_text()))
    return available + process_bytes()


def process_bytes() -> float:
    """Return the bytes that this process has in memory: Python, its libraries, and what they have loaded."""
    return _of_proc("/proc/self/status", "VmRSS:") or 0.0


def _of_proc(file: str, name: str) -> float | None:
    with suppress(OSError):  # not Linux
        for line in Path(file).read_text().splitlines():
            if line.startswith(name):
                return 1024.0 * int(line.split()[1])
    return None
