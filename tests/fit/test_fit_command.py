"""``mlzoo fit`` as a person runs it, on a small table: what it leaves, what it says, and what a kill costs."""

import random
import shutil
import signal
import subprocess
import sys

import orjson
import pytest
from tables import TABLE, command, environment, fit, read, run_directory, toy, weights

from mlzoo.fit import checkpoints

pytestmark = pytest.mark.torch
SHORT = ("epochs=6", "stopping.patience=0", "optimiser.lr=0.01")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return where a run was made that nobody interrupted, and what it said."""
    directory = tmp_path_factory.mktemp("made")
    toy(directory)
    ended = fit(directory, *TABLE, *SHORT)
    assert ended.returncode == 0, ended.stderr
    return directory, ended


def test_a_run_tells_its_figures_and_where_its_result_is(made):
    directory, ended = made
    head, figures = ended.stdout.splitlines()[:2]
    assert "ACCURACY (TEST)" in head
    assert float(figures.split()[5]) > 0.8
    assert "toy: epoch 6 of 6" in ended.stderr
    (card,) = (directory / "data" / "mlzoo" / "models" / "toy").glob("*/README.md")
    assert "## How good it is" in read(card)
    for picture in ("loss.svg", "confusion.svg"):
        assert read(card.with_name(picture)).startswith("<?xml")
    assert "kind: predict" in read(directory / "config" / "mlzoo" / "model" / "toy.yaml")


def test_the_result_answers_as_the_class_that_serves_does(made):
    directory, _ = made
    from mlzoo.models.artifact import load
    from mlzoo.models.zoo import tensors

    (place,) = (directory / "data" / "mlzoo" / "models" / "toy").glob("*/")
    model = load(place)
    examples = model.pipeline.read([{"size": 2.1, "noise": 0.0, "colour": "blue", "fresh": True}])
    (answer,) = model.head.decode(model(tensors(model.pipeline.collate(examples))).detach(), examples)
    assert answer["label"] == "high"


def test_the_run_is_in_a_log_that_is_whole(made):
    directory, _ = made
    log = str(run_directory(directory) / "log")
    verified = subprocess.run([sys.executable, "-m", "mlzoo", "log", "verify", log], check=False, capture_output=True)
    assert verified.returncode == 0, verified.stdout
    told = subprocess.run([sys.executable, "-m", "mlzoo", "log", "cat", "--json", log], check=True, capture_output=True)
    records = [orjson.loads(line) for line in told.stdout.splitlines()]
    events = [record["type"] for record in records if record["kind"] == "event"]
    assert events == ["FitStarted", *["FitEpochEnded"] * 6, "FitEnded"]
    assert [record["data"]["epoch"] for record in records if record["type"] == "ReportFitEpoch"] == [1, 2, 3, 4, 5, 6]
    assert "toy.csv" not in str([record["data"] for record in records]), "paths are text, and stand there alone"


def test_the_same_run_gives_the_same_weights_to_the_byte(made, tmp_path):
    toy(tmp_path)
    assert fit(tmp_path, *TABLE, *SHORT).returncode == 0
    assert weights(tmp_path) == weights(made[0])


def kill_after(directory, lines, *words):
    """Start a run and kill it once it has told so many lines: wherever it is by then."""
    process = subprocess.Popen(
        command(*words), cwd=directory, env=environment(directory), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    for _ in range(lines):
        process.stderr.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
def test_a_run_that_is_killed_again_and_again_ends_with_the_weights_of_one_that_was_not(made, tmp_path):
    toy(tmp_path)
    draws = random.Random()
    words = (*TABLE, *SHORT, "checkpoint_s=0", "--replace")  # A checkpoint after each step: kills meet its writing too.
    for _ in range(3):
        kill_after(tmp_path, draws.randrange(1, 3), *words)
    ended = fit(tmp_path, *words)
    assert ended.returncode == 0, ended.stderr
    assert "going on from a checkpoint" in ended.stderr
    assert weights(tmp_path) == weights(made[0])
    log = str(run_directory(tmp_path) / "log")
    assert subprocess.run([sys.executable, "-m", "mlzoo", "log", "verify", log], check=False).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another matter there")
def test_an_interrupt_leaves_a_checkpoint_says_how_to_go_on_and_another_configuration_is_refused(made, tmp_path):
    toy(tmp_path)
    words = (*TABLE, "epochs=2000", "stopping.patience=0")
    process = subprocess.Popen(
        command(*words), cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for line in process.stderr:
        if b"epoch 3 of" in line:
            break
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130
    assert b"the same command goes on from there" in told
    kept = checkpoints.read(run_directory(tmp_path) / "runs" / "0" / "checkpoint.safetensors")
    assert kept.document["place"]["epoch"] >= 3

    other = fit(tmp_path, *words, "optimiser.lr=0.5", "model.backbone.hidden=[8]")
    assert other.returncode == 2
    assert "settings.optimiser.lr is 0.003 there and 0.5 here" in other.stderr
    assert "settings.model.backbone.hidden is [64,64] there and [8] here" in other.stderr
    for best in (run_directory(tmp_path) / "runs" / "0").glob("best-*"):
        best.unlink()
    gone = fit(tmp_path, *words)
    assert gone.returncode == 2
    assert "are gone: begin anew with --restart" in gone.stderr
    again = fit(tmp_path, *words, "epochs=1", "--restart")
    assert again.returncode == 0, again.stderr


def test_several_runs_are_told_side_by_side_and_the_best_is_served(tmp_path):
    toy(tmp_path)
    ended = fit(tmp_path, *TABLE, "epochs=2", "-m", "optimiser.lr=1e-6,1e-2")
    assert ended.returncode == 0, ended.stderr
    rows = ended.stdout.splitlines()
    assert rows[1].startswith("optimiser.lr=1e-06 ")
    assert rows[2].startswith("optimiser.lr=0.01 *")
    assert "lr: 0.01" in read(next((tmp_path / "data").glob("mlzoo/models/toy/*/README.md")))


def test_a_name_that_is_taken_is_refused_before_anything_is_trained_unless_it_is_to_be_replaced(made, tmp_path):
    directory = shutil.copytree(made[0], tmp_path / "again")
    before = weights(directory)
    refused = fit(directory, *TABLE, *SHORT)
    assert refused.returncode == 2
    assert "--replace" in refused.stderr
    assert weights(directory) == before
    replaced = fit(directory, *TABLE, *SHORT, "seed=1", "--replace")
    assert replaced.returncode == 0, replaced.stderr
    assert weights(directory) != before


def test_a_result_whose_manifest_is_lost_is_there_again_after_a_pull(made):
    directory, _ = made
    before = weights(directory)
    (directory / "data" / "mlzoo" / "models" / "toy" / "manifest.json").unlink()
    words = [sys.executable, "-m", "mlzoo", "models", "pull", "toy"]
    pulled = subprocess.run(words, env=environment(directory), capture_output=True, text=True, check=False)
    assert pulled.returncode == 0, pulled.stderr
    assert weights(directory) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("data.target=lable",), "did you mean label?"),
        (("model.head.kind=classifcation",), "did you mean classification?"),
        (("base=minlim",), "base: no model is called 'minlim'"),
        (("stopping.metric=rmse",), "stopping.metric: rmse is not measured here"),
        (("trained=head",), "trained"),
    ],
)
def test_what_cannot_work_is_told_in_a_line_and_with_status_2(tmp_path, words, told):
    toy(tmp_path)
    ended = fit(tmp_path, *TABLE, *words)
    assert ended.returncode == 2, ended.stderr
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_wrong_settings_are_told_without_torch(tmp_path):
    toy(tmp_path)
    spy = "import sys; from mlzoo.cli import main; main(sys.argv[1:]); sys.exit(9 if 'torch' in sys.modules else 0)"
    words = [sys.executable, "-c", spy, "fit", *TABLE, "data.target=lable"]
    ended = subprocess.run(words, cwd=tmp_path, env=environment(tmp_path), capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert b"did you mean label?" in ended.stderr


def test_a_loss_that_is_no_number_ends_the_run_and_says_what_to_change(tmp_path):
    toy(tmp_path)
    ended = fit(tmp_path, *TABLE, "optimiser.kind=sgd", "optimiser.lr=1e30", "optimiser.clip=0", "epochs=3")
    assert ended.returncode == 1
    assert "lower optimiser.lr" in ended.stderr
