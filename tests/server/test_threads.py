"""The number of threads: affinity, hyper-threads, and the CPU quota of cgroups, on made-up /proc and /sys."""

import os
import subprocess
import sys

import pytest
from llamaserver.threads import cgroup_quota, default_threads, physical_cores

FOUR = frozenset(range(4))


@pytest.fixture
def root(tmp_path):
    """Write files below a made-up root: path -> text."""

    def write(files):
        for path, text in files.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return write


def siblings(*groups):
    """The topology files of cores, each given as its CPUs."""
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": ",".join(map(str, group)) + "\n"
        for group in groups
        for cpu in group
    }


def v2(path, limits):
    """cgroup v2: the process's path, and the cpu.max of folders."""
    files = {f"sys/fs/cgroup/{folder}/cpu.max": f"{text}\n" for folder, text in limits.items()}
    return {"proc/self/cgroup": f"0::{path}\n", **files}


def v1(path, folder, quota, controllers="cpu,cpuacct"):
    """cgroup v1 with a quota (microseconds of 100,000) in one folder of the CPU controller."""
    lines = f"12:pids:{path}\n4:{controllers}:{path}\n1:name=systemd:{path}\n"
    return {
        "proc/self/cgroup": lines,
        f"sys/fs/cgroup/{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"sys/fs/cgroup/{folder}/cpu.cfs_period_us": "100000\n",
    }


def test_without_cgroups_and_topology_every_cpu_counts(root):
    assert default_threads(root({}), FOUR) == 4


def test_hyper_threads_of_a_core_count_once(root):
    files = siblings((0, 4), (1, 5), (2, 6), (3, 7))
    assert default_threads(root(files), frozenset(range(8))) == 4


def test_only_cores_within_the_affinity_count(root):
    files = siblings((0, 4), (1, 5), (2, 6), (3, 7))
    assert physical_cores(root(files), frozenset({0, 4})) == 1
    assert physical_cores(root(files), frozenset({0, 5})) == 2


def test_an_unreadable_topology_counts_cpus(root):
    files = siblings((0, 1))
    assert physical_cores(root(files), FOUR) == 4


@pytest.mark.parametrize(
    ("text", "threads"),
    [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", 4), ("900000 100000", 4)],
)
def test_the_quota_of_cgroup_v2_bounds_the_cores(root, text, threads):
    assert default_threads(root(v2("/", {".": text})), FOUR) == threads


def test_the_tightest_cgroup_on_the_path_counts(root):
    limits = {"kubepods": "300000 100000", "kubepods/pod1": "100000 100000", "kubepods/pod1/c": "max 100000"}
    assert cgroup_quota(root(v2("/kubepods/pod1/c", limits))) == 1.0


def test_siblings_of_the_path_do_not_count(root):
    limits = {"kubepods/pod1": "300000 100000", "kubepods/pod2": "100000 100000"}
    assert cgroup_quota(root(v2("/kubepods/pod1", limits))) == 3.0


def test_a_path_outside_the_namespace_is_looked_up_where_it_is_mounted(root):
    assert cgroup_quota(root(v2("/../../outside", {".": "200000 100000"}))) == 2.0


def test_the_unified_folder_of_a_hybrid_system(root):
    assert cgroup_quota(root(v2("/", {"unified": "200000 100000"}))) == 2.0


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu", "cpu/docker/abc", "cpu,cpuacct/docker/abc"])
def test_the_quota_of_cgroup_v1_bounds_the_cores(root, folder):
    assert default_threads(root(v1("/docker/abc", folder, 200000)), FOUR) == 2


def test_no_quota_in_cgroup_v1(root):
    assert cgroup_quota(root(v1("/", "cpu", -1))) is None


def test_other_controllers_of_cgroup_v1_are_not_asked(root):
    assert cgroup_quota(root(v1("/", "cpuset", 100000, controllers="cpuset"))) is None


@pytest.mark.parametrize("text", ["", "max", "one two", "100000 0", "a b c"])
def test_a_strange_file_is_no_limit(root, text):
    assert cgroup_quota(root(v2("/", {".": text}))) is None


@pytest.mark.parametrize("text", ["", "nonsense\n", "0:cpu\n"])
def test_a_strange_list_of_cgroups_is_no_limit(root, text):
    assert cgroup_quota(root({"proc/self/cgroup": text, "sys/fs/cgroup/cpu.max": "max 100000"})) is None


def test_at_least_one_thread(root):
    assert default_threads(root(v2("/", {".": "1000 100000"})), FOUR) == 1


def test_this_machine_respects_its_own_affinity():
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); from llamaserver.threads import *; print(default_threads())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
