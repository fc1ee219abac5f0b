"""``mlzoo doctor``: what it finds, and what it says to do."""

import json
import subprocess
import sys

import pytest

from mlzoo import graph_notes
from mlzoo.cli import main
from mlzoo.cli.doctor import compiled_steps


def doctor(capsys, *arguments):
    """Run it on a store of its own; return the exit status and the findings by topic."""
    status = main(["doctor", "--json", *map(str, arguments)])
    findings = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return status, {finding["topic"]: finding for finding in findings}


@pytest.fixture
def place(tmp_path):
    return ["--log", tmp_path / "log", f"store={tmp_path / 'models'}"]


def make_log(path):
    """Have a sidecar write a log."""
    ping = b'{"jsonrpc":"2.0","id":1,"method":"chat","params":{"messages":[{"role":"user","content":"hi"}]}}\n' * 20
    command = [sys.executable, "-m", "mlzoo", "serve", "--log", path, f"store={path.with_name('models')}"]
    subprocess.run(command, input=ping, capture_output=True, check=True, timeout=120)


def test_a_sound_machine_without_models_is_told_which_to_pull(capsys, place):
    status, findings = doctor(capsys, *place)
    assert status == 0
    assert findings["smollm2"]["state"] == "warning"
    assert findings["smollm2"]["remedy"] == "mlzoo models pull smollm2"
    assert findings["cpu"]["state"] == "ok"
    assert findings["store"]["state"] == "ok"
    assert "torch" in findings["local models"]["text"]
    assert "left in order" in findings["sidecar"]["text"]


def test_a_provider_whose_file_does_not_hold_is_told_with_the_place(capsys, place, tmp_path):
    file = tmp_path / "configs" / "provider" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("kind: openai\n")
    status, findings = doctor(capsys, *place, "--config-dir", tmp_path / "configs")
    assert status == 1
    assert f"{file}: base_url: expected an http or https URL" in findings["provider mine"]["text"]
    assert findings["provider mine"]["remedy"] == "correct that file, or remove it"
    assert findings["provider openai"]["state"] == "ok"


def test_a_persona_whose_file_does_not_hold_is_told_with_the_place(capsys, place, tmp_path):
    personas = tmp_path / "configs" / "persona"
    personas.mkdir(parents=True)
    (personas / "ghost.yaml").write_text("model: smollm3\n")
    (personas / "typo.yaml").write_text("truncation: {policy: burn}\n")
    (personas / "sound.yaml").write_text("system: be brief\n")
    status, findings = doctor(capsys, *place, "--config-dir", tmp_path / "configs")
    assert status == 1
    told = {name: findings[f"persona {name}"] for name in ("ghost", "typo")}
    assert {found["state"] for found in told.values()} == {"fault"}
    assert {found["remedy"] for found in told.values()} == {"correct that file, or remove it"}
    assert f"{personas / 'ghost.yaml'}: model: no model is called 'smollm3'" in told["ghost"]["text"]
    assert f"{personas / 'typo.yaml'}: truncation.policy: expected one of" in told["typo"]["text"]
    assert "persona sound" not in findings


def test_a_provider_is_told_to_be_in_use_once_it_has_its_key(capsys, place, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-not-to-be-shown")
    _, findings = doctor(capsys, *place)
    assert findings["provider openai"]["text"] == "of gpt-4o-mini: not in use, as OPENAI_API_KEY is not set"
    assert findings["provider anthropic"]["text"] == "of claude-haiku: has its key"
    assert "gpt-4o-mini" not in findings
    assert "sk-not" not in str(findings)
    _, findings = doctor(capsys, *place, "model=gpt-4o-mini")
    assert "providers.authenticate" in findings["provider openai"]["remedy"]


def test_people_get_lines_with_what_to_do_below(capsys, place):
    main(["doctor", *map(str, place)])
    told = capsys.readouterr().out
    assert "warning  smollm2: is not installed\n         -> mlzoo models pull smollm2\n" in told


def test_a_whole_log_is_fine(capsys, place, tmp_path):
    make_log(tmp_path / "log")
    status, findings = doctor(capsys, *place)
    assert status == 0
    assert findings[f"log {tmp_path / 'log'}"]["text"].endswith("all whole")


def test_a_damaged_log_is_a_fault_with_the_way_on(capsys, place, tmp_path):
    make_log(tmp_path / "log")
    segment = min((tmp_path / "log" / "segments").iterdir())
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    status, findings = doctor(capsys, *place)
    assert status == 1
    finding = findings[f"log {tmp_path / 'log'}"]
    assert (finding["state"], finding["remedy"]) == ("fault", f"mlzoo log repair {tmp_path / 'log'}")


def test_a_torn_tail_is_no_fault_since_the_next_start_cuts_it(capsys, place, tmp_path):
    make_log(tmp_path / "log")
    segment = max((tmp_path / "log" / "segments").iterdir())
    segment.write_bytes(segment.read_bytes() + b'{"crc":"0')  # What a crash in the middle of a write leaves.
    status, findings = doctor(capsys, *place)
    assert status == 0
    assert findings[f"log {tmp_path / 'log'}"]["state"] == "warning"
    make_log(tmp_path / "log")
    assert doctor(capsys, *place)[1][f"log {tmp_path / 'log'}"]["state"] == "ok"


def test_a_configuration_that_does_not_hold_is_a_fault(capsys, place):
    status, findings = doctor(capsys, *place, "limits.max_runing=1")
    assert status == 1
    assert "max_running" in findings["configuration"]["text"]


def test_a_model_whose_file_does_not_hold_is_a_fault_and_all_else_is_still_checked(capsys, place, tmp_path):
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "model" / "mine.yaml").write_text("kind: chat\nsource: foo:bar\n")
    status, findings = doctor(capsys, *place, "--config-dir", tmp_path / "configs")
    assert status == 1
    assert "source: expected wheel:" in findings["mine"]["text"]
    assert findings["sidecar"]["state"] == "ok"


def test_a_sidecar_that_cannot_start_is_a_fault_with_its_last_words(capsys, place, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['trio'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    status, findings = doctor(capsys, *place)
    assert status == 1
    assert findings["sidecar"]["state"] == "fault"
    assert "trio" in findings["sidecar"]["text"]


def test_a_model_whose_files_changed_is_a_fault(capsys, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "model.safetensors").write_bytes(b"weights")
    configs = tmp_path / "configs" / "model"
    configs.mkdir(parents=True)
    (configs / "mine.yaml").write_text(
        f"name: mine\nkind: chat\nsource: path:{weights}\nlicence: {{spdx: MIT, url: https://example.org}}\n"
    )
    place = [
        "--config-dir",
        tmp_path / "configs",
        "--log",
        tmp_path / "log",
        f"store={tmp_path / 'models'}",
        "model=mine",
    ]
    options = ["--config-dir", str(tmp_path / "configs"), f"store={tmp_path / 'models'}", "model=mine"]
    pulled = subprocess.run(
        [sys.executable, "-m", "mlzoo", "models", "pull", "mine", *options],
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert pulled.returncode == 0, pulled.stderr
    assert doctor(capsys, *place)[1]["mine"]["state"] == "ok"
    (weights / "model.safetensors").write_bytes(b"wEights")
    status, findings = doctor(capsys, *place)
    assert status == 1
    assert findings["mine"]["state"] == "fault"
    assert findings["mine"]["remedy"] == "mlzoo models remove mine && mlzoo models pull mine"


def test_a_compiled_step_that_was_given_up_is_told_with_how_to_have_it_tried_again(tmp_path):
    note = tmp_path / f"graph-{'0' * 32}-int4.graph"
    graph_notes.refuse(note, "smollm2", "int4", "its compiler failed (no such header)", times=1)
    assert list(compiled_steps(tmp_path)) == []  # The next load tries again.
    graph_notes.refuse(note, "smollm2", "int4", "its compiler failed (no such header)")
    (found,) = compiled_steps(tmp_path)
    assert (found.topic, found.state) == ("smollm2", "warning")
    assert "its compiler failed (no such header)" in found.text
    assert found.remedy == f"to have it tried again, remove {note}"
