"""What this machine computes with: the device, and as many threads as this process may have cores."""

import os
from collections.abc import Iterable
from pathlib import Path

import torch


def devices() -> list[str]:
    """The kinds of device that are there, the fastest first."""
    return ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]


def cpus_alone() -> bool:
    """Whether there is nothing but CPUs. accelerate must be told, or torchrun's processes do not find each other."""
    return devices() == ["cpu"]


def choose_device(name: str | None = None) -> str:
    """The device of this name, or the fastest kind there is. ValueError where it is unknown or not there."""
    if name is None:
        return devices()[0]
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"the device {name!r} cannot be used here: {reason}") from error
    return name


def use_own_cores() -> int:
    """Let torch use as many threads as this process may have cores; the number.

    Inside a container torch sees the host's cores: with a quota of 2 out of 64 it would start 64 threads, which the
    kernel then stops for most of every period. OMP_NUM_THREADS, where it is set, has the last word.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    return torch.get_num_threads()


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that the affinity and the cgroup's quota leave to this process, at least 1. `root`: of the file system."""
    # os.process_cpu_count() is Python 3.13's
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas(root)])))


def _quotas(root: Path) -> Iterable[float]:
    """Cores by the quota of this process's cgroup and of those above it; none where there is no limit."""
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = mount / "cpu" if controllers else mount  # version 1 mounts each controller by itself
        inside = base / path.lstrip("/")  # inside a container this may be the host's path, and not there
        for folder in {base, inside, *inside.parents} - set(base.parents):
            if quota := _quota(folder):
                yield quota


def _quota(folder: Path) -> float | None:
    """cpu.max holds "200000 100000" or "max 100000" (cgroup v2); v1 has a file for each number, -1 for none."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no limit: "max", or no such file
        return None
