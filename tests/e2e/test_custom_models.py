"""A custom model through the whole house: pulled from a path, asked by many at once, recorded, played again."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest
from real_process import hosting, is_whole, mlzoo, story

sys.path.append(str(Path(__file__).parent.parent / "models"))

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A configuration with a table model, whose artifact is beside it."""
    from zoo_specs import COLUMNS, TABLE, made

    from mlzoo.models.artifact import save

    place = tmp_path_factory.mktemp("place")
    model, spec = made(TABLE, columns=COLUMNS)
    save(model, spec, place / "artifact")
    (place / "configs" / "model").mkdir(parents=True)
    text = f"kind: predict\nsource: path:{place / 'artifact'}\naliases: [members]\n"
    (place / "configs" / "model" / "table.yaml").write_text(text)
    return place


@pytest.fixture
def host(place, tmp_path):
    with hosting(tmp_path / "log", f"store={place / 'models'}", config_dir=place / "configs") as host:
        host.call("models.pull", model="table")
        yield host


def test_many_ask_at_once_and_each_hears_of_its_own_inputs_as_if_it_were_alone(host):
    from zoo_specs import ROWS

    async def main(client):
        answers = {}

        async def ask(number):
            inputs = [ROWS[number % 4], ROWS[(number + 1) % 4]]
            answers[number] = await client.call("predict", {"model": "members", "inputs": inputs})

        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(ask, number)
        return answers

    alone = [host.call("predict", model="table", inputs=[row])["outputs"][0] for row in ROWS]
    for number, told in host.run(main).items():
        assert told["model"] == "table"
        for output, expected in zip(told["outputs"], (alone[number % 4], alone[(number + 1) % 4]), strict=True):
            assert output["label"] == expected["label"]
            assert output["scores"] == pytest.approx(expected["scores"], abs=1e-5)


def test_a_bad_input_is_told_with_its_place_and_the_model_says_what_it_is(host):
    error = host.refused("predict", model="table", inputs=[{"age": "old", "job": "smith", "member": True}])
    assert (error.code, error.data["path"]) == (-32602, "inputs[0].age")
    info = host.call("models.info", model="table")
    assert info["chosen"]["labels"] == ["no", "yes"]
    assert info["chosen"]["architecture"] == "Mlp + Classification"
    assert any("mlp of" in reason for reason in info["why"])
    assert host.call("models.unload", model="table")["state"] == "available"


def test_what_was_predicted_is_in_the_log_and_is_said_again_from_a_recording(place, tmp_path):
    from zoo_specs import ROWS

    log, recording = tmp_path / "log", tmp_path / "session.ndjson"
    config = ["--config-dir", place / "configs", f"store={place / 'models'}"]
    with hosting(log, config[-1], config_dir=place / "configs") as host:
        host.call("models.pull", model="table")
        told = host.call("predict", model="table", inputs=ROWS, key="once")
        assert host.call("predict", model="table", inputs=ROWS, key="once") == told
    assert is_whole(log)
    completed = [record for record in story(log) if record.get("type") == "RequestCompleted"]
    assert [record["data"]["count"] for record in completed] == [4]
    assert mlzoo("log", "export", log, "-o", recording).returncode == 0
    checked = mlzoo("replay", "check", recording)
    assert checked.returncode == 0, checked.stderr
    again = mlzoo("replay", "rerun", recording)
    assert again.returncode == 0, again.stdout + again.stderr
