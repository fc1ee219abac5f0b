"""What an installed wheel brings to a machine without a compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from tiny_models import load, save_causal

from mlzoo.config.loading import cache_directory
from mlzoo.inference import linears, native, native_options
from mlzoo.inference.loader import load_chat

pytestmark = pytest.mark.torch
ROOT = Path(__file__).parents[2]


def built(place, **environment):
    """Build a wheel into an empty directory, and return it."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", place]
    subprocess.run([*build, ROOT], check=True, env={**os.environ, **environment})
    (made,) = place.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if not native_options.is_for_this_system() or native_options.compiler() is None:
        pytest.skip("here a wheel is of Python alone")
    return built(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def without_compiler(wheel, tmp_path, monkeypatch):
    """A process that has no kernels yet, on a machine without a compiler, on which the wheel was installed."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    monkeypatch.setattr(native_options, "PREBUILT", tmp_path / "installed/mlzoo/inference/prebuilt")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(native._State, "library", None)
    monkeypatch.setattr(native._State, "asked", None)
    if native.offer(tmp_path) == native.LACKING:
        pytest.skip(native.LACKING)


def test_a_wheel_names_what_it_runs_on_and_holds_kernels_for_each_instruction_set_and_all_configuration(wheel):
    assert wheel.name.endswith("-py3-none-linux_x86_64.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"mlzoo/inference/prebuilt/{name}.so" for name in native_options.INSTRUCTIONS} <= set(names)
    assert {f"mlzoo/configs/{path.relative_to(ROOT / 'configs')}" for path in (ROOT / "configs").rglob("*.yaml")} <= {
        *names
    }
    assert not [name for name in names if name.startswith(("tests", "bench"))]


@pytest.mark.usefixtures("without_compiler")
def test_its_kernels_compute_the_bits_of_those_that_are_compiled_here(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    weights, rows = (torch.randn(shape, generator=generator).bfloat16() for shape in ((96, 64), (5, 64)))
    ours = {bits: linears.w4a16(weights, bits)(rows) for bits in (4, 8)}
    assert native.unknown_to_steps()
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(native._State, "library", None)
    assert native.offer(cache_directory(None, os.environ)) == ""
    assert native.unknown_to_steps() == ""
    for bits, seen in ours.items():
        assert torch.equal(linears.w4a16(weights, bits)(rows), seen)


@pytest.mark.usefixtures("without_compiler")
def test_a_model_has_kernels_of_our_own_and_eager_steps(tiny_directory, tmp_path):
    model = load_chat(load(tiny_directory, dtype="bfloat16", digest="d"), torch.device("cpu"), cache=tmp_path)
    assert "kernels of our own: at hand" in model.why
    assert "no compiled graphs: this machine has no C++ compiler" in model.why


@pytest.mark.usefixtures("without_compiler")
def test_steps_are_not_compiled_that_would_not_find_them(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX")
    directory = save_causal(tmp_path / "model", head_dim=16)  # the least that our kernel of attention takes
    model = load_chat(load(directory, dtype="bfloat16", digest="d"), torch.device("cpu"), cache=tmp_path)
    why = "the kernels that came with the package are not made for them, and none are made here"
    assert f"no compiled graphs: {why}: this machine has no C++ compiler" in model.why


@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize("obstacle", ["compiler", "cache"])
def test_they_stand_in_where_kernels_cannot_be_made_or_kept_and_it_is_said_why(tmp_path, monkeypatch, obstacle):
    monkeypatch.setattr(native._State, "library", None)
    cache = tmp_path / "cache"
    if obstacle == "compiler":
        monkeypatch.setenv("CXX", "false")
    else:
        monkeypatch.delenv("CXX")
        cache.write_text("no directory")
    assert native.offer(cache) == ""
    assert ("the C++ compiler failed" if obstacle == "compiler" else "File exists") in native.unknown_to_steps()


def test_a_wheel_is_built_also_where_the_compiler_cannot_build_the_kernels(tmp_path):
    if not native_options.is_for_this_system():
        pytest.skip("here a wheel is of Python alone")
    made = built(tmp_path, CXX="false")
    assert made.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(made).namelist() if "prebuilt" in name]
