"""What control groups of either version leave, read from trees of files as containers have them."""

import pytest

from mlzoo import cgroups


@pytest.fixture
def files(tmp_path):
    """Write a tree of control groups: root of the mount, and the file that names a process's own."""

    def write(own, **contents):
        (tmp_path / "own").write_text(own)
        for name, text in contents.items():
            path = tmp_path / "cgroup" / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "cgroup", tmp_path / "own"

    return write


def test_a_limit_of_version_2_counts_with_reclaimable_cache_as_free(files):
    places = files(
        "0::/box\n",
        box__memory_DOT_max="1000\n",
        box__memory_DOT_current="600\n",
        box__memory_DOT_stat="anon 100\ninactive_file 200\n",
    )
    assert cgroups.memory(*places) == [(1000, 400)]


def test_a_group_above_limits_too_and_max_is_no_limit(files):
    places = files(
        "0::/outer/inner\n",
        outer__inner__memory_DOT_max="max\n",
        outer__inner__memory_DOT_current="5\n",
        outer__memory_DOT_max="2000\n",
        outer__memory_DOT_current="10\n",
    )
    assert cgroups.memory(*places) == [(2000, 10)]


def test_a_limit_of_version_1_is_found_at_the_top_where_a_container_sees_only_that(files):
    places = files(
        "4:memory:/docker/abc\n0::/\n",
        memory__memory_DOT_limit_in_bytes="3000\n",
        memory__memory_DOT_usage_in_bytes="1000\n",
    )
    assert cgroups.memory(*places) == [(3000, 1000)]


def test_a_quota_of_either_version_limits_the_cpus(files):
    assert cgroups.cpus(*files("0::/\n", cpu_DOT_max="150000 100000\n")) == 1.5
    assert cgroups.cpus(*files("0::/\n", cpu_DOT_max="max 100000\n")) is None
    old = {"cpu__cpu_DOT_cfs_quota_us": "50000", "cpu__cpu_DOT_cfs_period_us": "100000"}
    assert cgroups.cpus(*files("1:cpu,cpuacct:/\n", **old)) == 0.5


def test_no_control_groups_are_no_limits(tmp_path):
    assert cgroups.memory(tmp_path, tmp_path / "none") == []
    assert cgroups.cpus(tmp_path, tmp_path / "none") is None


def test_the_tightest_group_bounds_the_machine(monkeypatch):
    monkeypatch.setattr(cgroups, "memory", lambda: [(3000, 1000), (2000, 1900)])
    assert cgroups.bound_memory(8000, 7000) == (2000, 100)
    monkeypatch.setattr(cgroups, "memory", list)
    assert cgroups.bound_memory(8000, 7000) == (8000, 7000)
