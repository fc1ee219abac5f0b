"""``mlzoo models`` and ``mlzoo devices``, as a person and as a program sees them."""

import shutil

import orjson
import pytest

from mlzoo.cli import main
from mlzoo.fit.entries import MADE_BY

HEADER = b'{"weight":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Configure a model whose weights are a directory, and a store of the test's own."""
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "model.safetensors").write_bytes(len(HEADER).to_bytes(8, "little") + HEADER + b"1234")
    (tmp_path / "config" / "model").mkdir(parents=True)
    entry = {"kind": "chat", "source": f"path:{weights}", "licence": {"spdx": "MIT", "url": "https://example.com"}}
    (tmp_path / "config" / "model" / "toy.yaml").write_bytes(orjson.dumps({**entry, "memory_bytes": 1000}))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "config" / "model" / "pickled.yaml").write_bytes(orjson.dumps({**entry, "source": f"path:{pickled}"}))
    monkeypatch.setenv("MLZOO_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("MLZOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLZOO_STORE", str(tmp_path / "store"))
    return weights


def lines(capsys):
    return [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_list_names_every_known_model_with_its_state(settings, capsys):
    assert main(["models", "list"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["NAME", "KIND", "STATE"]
    local = dict.fromkeys(["minilm", "pickled", "smollm2", "toy"], "absent")
    remote = dict.fromkeys(["claude-haiku", "gpt-4o-mini"], "remote")
    assert {row.split()[0]: row.split()[2] for row in rows} == local | remote


def test_a_model_that_a_provider_answers_for_has_nothing_to_pull(settings, capsys):
    assert main(["models", "info", "gpt-4o-mini", "--json"]) == 0
    assert lines(capsys)[0]["source"] == "openai:gpt-4o-mini"
    assert main(["models", "pull", "gpt-4o-mini"]) != 0
    assert "no weights to pull" in capsys.readouterr().err


def test_a_model_whose_file_does_not_hold_is_listed_as_broken_with_its_reason(settings, tmp_path, capsys):
    file = tmp_path / "config" / "model" / "mine.yaml"
    file.write_text("kind: chat\nsource: foo:bar\n")
    assert main(["models", "list"]) == 0
    told = capsys.readouterr()
    assert ["mine", "-", "broken", "-", "-", "-"] in [row.split() for row in told.out.splitlines()]
    assert told.err.startswith(f"mlzoo: mine is broken: {file}: source: expected wheel:")
    assert main(["models", "list", "--json"]) == 0
    assert {model["name"]: model["state"] for model in lines(capsys)}["mine"] == "broken"
    assert main(["models", "pull", "mine"]) == 2
    assert f"{file}: source: expected wheel:" in capsys.readouterr().err


def test_a_model_is_pulled_checked_and_removed(settings, capsys):
    assert main(["models", "pull", "toy"]) == 0
    told = capsys.readouterr()
    assert told.out == f"toy is installed: {settings}\n"
    assert "under MIT (https://example.com)" in told.err
    assert main(["models", "info", "toy", "--verify"]) == 0
    assert "every file is what it was" in capsys.readouterr().out
    assert main(["models", "remove", "toy"]) == 0
    assert "freed" in capsys.readouterr().out
    assert main(["models", "remove", "toy"]) == 0
    assert "nothing was here" in capsys.readouterr().out
    assert main(["models", "info", "toy"]) == 0
    assert "`mlzoo models pull toy` installs it" in capsys.readouterr().out


def test_a_fitted_model_is_removed_with_its_entry_and_the_name_is_free_again(settings, tmp_path, capsys):
    mine = fitted(tmp_path)
    assert main(["models", "pull", "toy"]) == 0
    capsys.readouterr()
    assert main(["models", "remove", "toy"]) == 0
    told = capsys.readouterr().out
    assert f"{mine}, which mlzoo fit had made, is gone too: the name is free again" in told
    assert f"{settings} stays, as --output had it there" in told
    assert not mine.exists()
    assert settings.is_dir()
    assert main(["models", "remove", "toy"]) == 2
    assert "no model is called 'toy'" in capsys.readouterr().err


def test_the_entry_of_a_fitted_model_whose_files_are_gone_is_removed_too_and_a_program_hears_of_it(
    settings, tmp_path, capsys
):
    mine = fitted(tmp_path)
    shutil.rmtree(settings)
    assert main(["models", "pull", "toy"]) == 1
    assert "mlzoo fit --replace makes its own anew" in capsys.readouterr().err
    assert main(["models", "remove", "toy", "--json"]) == 0
    assert lines(capsys) == [{"removed": "toy", "freed_bytes": 0, "entry": str(mine)}]
    assert not mine.exists()


def test_an_entry_that_a_user_wrote_stays(settings, tmp_path, capsys):
    assert main(["models", "remove", "toy", "--json"]) == 0
    assert lines(capsys)[0]["entry"] is None
    assert (tmp_path / "config" / "model" / "toy.yaml").is_file()


def fitted(directory):
    """Have the entry say that `mlzoo fit` made it; return where it is."""
    file = directory / "config" / "model" / "toy.yaml"
    file.write_bytes(MADE_BY.encode() + b"toy.csv; its card says how good it is.\n" + file.read_bytes())
    return file


def test_a_model_whose_file_changed_does_not_hold(settings, capsys):
    main(["models", "pull", "toy"])
    (settings / "config.json").write_text("[]")
    assert main(["models", "info", "toy", "--verify"]) == 1
    assert "config.json has changed" in capsys.readouterr().out


def test_a_program_gets_json_with_progress_and_the_result_last(settings, capsys):
    assert main(["models", "pull", "toy", "--json"]) == 0
    *progress, last = lines(capsys)
    assert [line["progress"]["stage"] for line in progress] == ["verify", "install"]
    assert last["installed"]["path"] == str(settings)
    assert main(["models", "list", "--json"]) == 0
    assert {model["name"]: model["state"] for model in lines(capsys)}["toy"] == "available"
    assert main(["models", "info", "toy", "--json", "--verify"]) == 0
    assert lines(capsys)[0]["wrong"] == []
    assert main(["models", "remove", "toy", "--json"]) == 0
    assert lines(capsys)[0]["removed"] == "toy"


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["models", "pull", "nothing"], 2, "no model is called 'nothing'"),
        (["models", "list", "stor=/x"], 2, "did you mean store?"),
        (["models", "list", "--config-dir", "nowhere"], 2, "does not exist"),
        (["models", "pull", "pickled"], 1, "can run any code"),
        (["devices", "devces=cpu"], 2, "did you mean devices?"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line_and_a_status(settings, capsys, arguments, status, told):
    assert main(arguments) == status
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("mlzoo: ")
    assert told in line


def test_a_program_gets_the_error_as_json_too(settings, capsys):
    assert main(["models", "pull", "pickled", "--json"]) == 1
    error = lines(capsys)[-1]["error"]
    assert (error["code"], error["data"]["reason"]) == (1017, "source")


def test_a_store_that_cannot_be_written_is_a_storage_error(settings, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["models", "pull", "toy", f"store={tmp_path}/file/store"]) == 3
    assert "Not a directory" in capsys.readouterr().err


def test_devices_show_what_fits(settings, capsys):
    assert main(["devices", "--json"]) == 0
    cpu = lines(capsys)[-1]
    assert cpu["name"] == "cpu"
    assert cpu["fits"]["toy"] is True
    assert main(["devices"]) == 0
    told = capsys.readouterr().out
    assert "cpu: " in told
    assert "toy" in told


def test_a_model_larger_than_the_memory_is_named_as_too_large(settings, capsys):
    assert main(["devices", f"models.toy.memory_bytes={1 << 60}"]) == 0
    assert "too large  toy" in capsys.readouterr().out
