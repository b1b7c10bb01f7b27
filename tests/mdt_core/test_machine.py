"""What a machine computes with: cores inside containers, devices, and what cannot be had."""

import os
import threading
from pathlib import Path

import pytest
import torch

from mdt_core.acceleration.machine import choose_device, devices, usable_cores, use_own_cores

HOST = len(os.sched_getaffinity(0))


def lay_out(root: Path, files: dict[str, str]) -> Path:
    """The parts of a file system that say what a process may use."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, HOST),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, HOST),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "100000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/of/the/host\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "6400000 100000\n"}, HOST),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense"}, HOST),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n3:memory:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            HOST,
        ),
    ],
)
def test_a_containers_quota_counts_and_not_the_hosts_cores(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    """Catches 64 threads on a quota of one core, a limit of a parent group that is missed, and no thread at all."""
    assert usable_cores(lay_out(tmp_path, files)) == cores


def test_threads_follow_the_cores_on_every_thread_unless_they_were_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Web servers work on threads of their own: catches a setting that holds for the main one alone."""
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr("mdt_core.acceleration.machine.usable_cores", lambda: 3)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        assert use_own_cores() == 3
        seen: list[int] = []
        thread = threading.Thread(target=lambda: (torch.ones(8) + 1, seen.append(torch.get_num_threads())))
        thread.start()
        thread.join()
        assert seen == [3]
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        assert use_own_cores() == 1
    finally:
        torch.set_num_threads(before)


def test_the_first_device_is_taken_and_a_missing_one_is_told() -> None:
    """Catches a traceback of CUDA's, and a choice that is not among those offered."""
    assert choose_device() == devices()[0]
    assert choose_device("cpu") == devices()[-1] == "cpu"
    for name in ("cudaa", "xpu:7", ""):
        with pytest.raises(ValueError, match="cannot be used here") as caught:
            choose_device(name)
        assert "\n" not in str(caught.value)
