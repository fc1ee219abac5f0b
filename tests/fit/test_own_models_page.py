"""The commands of docs/own-models.md, run as they stand there, one after the other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlzoo.config import load
from mlzoo.store import open_store

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "own-models.md").read_text(encoding="utf-8")


def blocks(heading):
    """Return the commands below a heading of the page."""
    part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0].split("\n# ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)


def package(directory):
    """Install the class of the page in a directory, as a package that declares it."""
    part = PAGE.split("\n## Register your own class\n")[1]
    (code,) = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    (points,) = re.findall(r"^tiny-gru = \"(.*)\"$", part, re.MULTILINE)
    about = directory / "my_package-1.0.dist-info"
    (directory / "my_package").mkdir(parents=True)
    about.mkdir()
    (directory / "my_package" / "gru.py").write_text(code)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[mlzoo.backbones]\ntiny-gru = {points}\n")


def run(directory, commands):
    kept = {f"XDG_{kind}_HOME": str(directory / kind.lower()) for kind in ("STATE", "CONFIG", "CACHE", "DATA")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **kept, "PATH": path}
    if not (directory / "bench").exists():
        (directory / "bench").symlink_to(ROOT / "bench")
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=directory, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="the page is for bash")
@pytest.mark.torch
def test_the_table_of_the_page_becomes_a_model_that_answers_over_the_wire(tmp_path):
    make, ask = blocks("A table")
    assert "wine is in" in run(tmp_path, make)
    answer = run(tmp_path, ask)
    assert '"label":"cultivar 1"' in answer, answer


@pytest.mark.skipif(sys.platform == "win32", reason="the page is for bash")
@pytest.mark.weights
def test_the_texts_of_the_page_become_a_model_that_answers_over_the_wire(tmp_path):
    [commands] = blocks("Texts")
    installed = open_store(load(())).find(load(()).model("minilm"))
    assert installed is not None, "mlzoo models pull minilm"
    store = tmp_path / "data" / "mlzoo" / "models"
    store.mkdir(parents=True)
    (store / "minilm").symlink_to(installed.path.parent)
    answer = run(tmp_path, commands)
    labels = re.findall(r'"label":"(\w+)"', answer)
    assert labels == ["negative", "positive"], answer


@pytest.mark.skipif(sys.platform == "win32", reason="the page is for bash")
@pytest.mark.torch
def test_the_class_of_the_page_is_trained_by_its_command_and_the_card_names_no_weights_of_a_base(
    tmp_path, encoder, monkeypatch
):
    [command] = blocks("Register your own class")
    package(tmp_path / "installed")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))
    rows = [f"the {('quick', 'lazy')[n % 2]} fox {n},{('good', 'bad')[n % 2]}" for n in range(40)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    run(tmp_path, f"{command.strip()} base={encoder} epochs=2 model.backbone.width=8")
    (card,) = (tmp_path / "data" / "mlzoo" / "models" / "gru").glob("*/README.md")
    assert "| backbone | tiny-gru (no base: its weights began at random) |" in card.read_text()
    assert f"| pipeline | text (files of `{encoder}`) |" in card.read_text()
