"""The record of the machine, on made-up machines and on this one."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import pytest

from onnxslim.report.report import plain
from onnxslim.runtime.environment import INTEGER_FEATURES, RUNTIMES, environment

X86 = """processor\t: 0
model name\t: Some CPU @ 3 GHz
flags\t\t: fpu avx2 avx512f avx512_vnni hypervisor

processor\t: 1
model name\t: Another
flags\t\t: fpu amx_int8
"""
ARM = """processor\t: 0
Features\t: fp asimd asimddp i8mm
CPU implementer\t: 0x41
CPU part\t: 0xd4f
"""


def machine(root: Path, **files: str) -> Path:
    """A folder with these files, whose names have ``__`` for slashes."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_this_machine() -> None:
    found = environment()
    assert found["python"] == platform.python_version()
    assert found["numpy"] == version("numpy") and found["onnx-ir"] == version("onnx-ir")
    assert found["onnxruntime"].startswith("1.")
    assert found["cores"] == os.cpu_count()
    assert json.loads(json.dumps(found)) == found == plain(found)
    assert None not in found.values()


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_this_machine_as_python_sees_it() -> None:
    found = environment()
    assert found["cores_available"] == len(os.sched_getaffinity(0))
    assert found["memory_bytes"] == pytest.approx(
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01
    )
    assert 0 < found["memory_available_bytes"] < found["memory_bytes"]


def test_the_first_processor_speaks_for_all(tmp_path: Path) -> None:
    found = environment(machine(tmp_path, proc__cpuinfo=X86))
    assert found["cpu_model"] == "Some CPU @ 3 GHz"
    assert found["cpu_features"] == ["avx2", "avx512f", "avx512_vnni"]
    assert found["virtualization"] == "virtual machine"


def test_arm_has_numbers_for_names(tmp_path: Path) -> None:
    found = environment(machine(tmp_path, proc__cpuinfo=ARM))
    assert found["cpu_model"] == "implementer 0x41 part 0xd4f"
    assert found["cpu_features"] == ["asimddp", "i8mm"]
    assert set(found["cpu_features"]) <= set(INTEGER_FEATURES)


def test_limits_of_control_groups_version_2(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        proc__self__cgroup="0::/outer/inner\n",
        proc__meminfo="MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n",
    )
    assert not {"cpu_limit", "memory_limit_bytes"} & set(environment(root))
    cgroup = "sys__fs__cgroup__"
    machine(
        root, **{f"{cgroup}outer__inner__cpu.max": "max 100000\n", f"{cgroup}outer__cpu.max": "150000 100000"}
    )
    machine(
        root, **{f"{cgroup}outer__inner__memory.max": "max\n", f"{cgroup}outer__memory.max": "1073741824\n"}
    )
    found = environment(root)
    assert found["cpu_limit"] == 1.5 and found["memory_limit_bytes"] == 1 << 30  # the outer group's
    assert found["memory_bytes"] == 8 << 30 and found["memory_available_bytes"] == 4 << 30
    machine(root, **{f"{cgroup}outer__inner__cpu.max": "50000 100000"})
    assert environment(root)["cpu_limit"] == 0.5  # the tighter one


def test_limits_of_control_groups_version_1(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        proc__self__cgroup="4:memory:/job\n1:cpu,cpuacct:/job\n0::/\n",
        proc__meminfo="MemTotal: 8388608 kB\n",
    )
    folder = root / "sys/fs/cgroup"
    (folder / "memory/job").mkdir(parents=True)
    (folder / "cpu/job").mkdir(parents=True)
    (folder / "memory/job/memory.limit_in_bytes").write_text("9223372036854771712\n")
    (folder / "cpu/job/cpu.cfs_quota_us").write_text("-1\n")
    (folder / "cpu/job/cpu.cfs_period_us").write_text("100000\n")
    assert not {"cpu_limit", "memory_limit_bytes"} & set(environment(root))  # neither is a limit
    (folder / "memory/memory.limit_in_bytes").write_text("2147483648\n")
    (folder / "cpu/job/cpu.cfs_quota_us").write_text("400000\n")
    found = environment(root)
    assert found["cpu_limit"] == 4.0 and found["memory_limit_bytes"] == 2 << 30


def test_a_group_outside_of_the_namespace_leads_nowhere_else(tmp_path: Path) -> None:
    root = machine(tmp_path / "root", proc__self__cgroup="0::/../../..\n")
    machine(tmp_path, **{"cpu.max": "100 100"})
    assert "cpu_limit" not in environment(root)


def test_governor_and_container(tmp_path: Path) -> None:
    assert not {"governor", "virtualization"} & set(environment(tmp_path))
    first = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    root = machine(
        tmp_path,
        **{
            f"sys__devices__system__cpu__cpu{first}__cpufreq__scaling_governor": "powersave\n",
            ".dockerenv": "",
        },
        sys__class__dmi__id__sys_vendor="Vendor\n",
        proc__cpuinfo=X86,
    )
    found = environment(root)
    assert found["governor"] == "powersave"
    assert found["virtualization"] == "container (docker), virtual machine (Vendor)"
    machine(root, run__systemd__container="lxc\n")
    assert environment(root)["virtualization"].startswith("container (lxc)")


@pytest.mark.parametrize(
    "content", ["", "\0\xff: :\n::::\n", "MemTotal: -3 kB\nMemTotal\n", "9" * 5000, "0::" * 999]
)
def test_odd_files_are_no_error(tmp_path: Path, content: str) -> None:
    names = ("cpuinfo", "meminfo", "self__cgroup")
    root = machine(tmp_path, **{f"proc__{name}": content for name in names})
    (root / "run").mkdir()
    (root / "run/systemd").write_text("a file where a folder should be")
    cgroup = root / "sys/fs/cgroup"
    cgroup.mkdir(parents=True)
    for name in ("cpu.max", "memory.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
        (cgroup / name).write_text(content)
    found = environment(root)
    assert found["cores"] == os.cpu_count() and "cpu_limit" not in found


def test_nothing_there_says_so(tmp_path: Path) -> None:
    assert environment(tmp_path)["cpu_features"] == f"not measured on {platform.system()}"


def test_every_distribution_of_the_runtime_is_looked_for() -> None:
    from onnxslim.runtime.providers import known

    assert {provider.package for provider in known() if provider.package} <= set(RUNTIMES)
