"""The program itself: help, exit status, and what is not imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlzoo import cli, errors
from mlzoo.cli import serve


def mlzoo(*arguments, **options):
    command = [sys.executable, *options.pop("python", ()), "-m", "mlzoo", *arguments]
    return subprocess.run(command, capture_output=True, timeout=120, check=False, **options)


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert all(f"    {name} " in told for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself_on_stdout(name):
    done = mlzoo(name, "--help")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(f"usage: mlzoo {name}".encode())


def imported(*arguments):
    """Return the modules that a command imports, in order."""
    done = mlzoo(*arguments, python=("-X", "importtime"), stdin=subprocess.DEVNULL)
    return [
        line.rsplit("|")[-1].strip() for line in done.stderr.decode().splitlines() if line.startswith("import time")
    ]


def test_help_imports_nothing_heavy():
    modules = imported("--help")
    assert "argparse" in modules
    assert not {"trio", "anyio", "attr", "orjson", "cattrs", "hydra", "mlzoo.app", "mlzoo.client"} & set(modules)


def test_serve_takes_stdin_and_stdout_before_anything_heavy_is_imported(tmp_path):
    mlzoo("serve", "--log", str(tmp_path / "log"), stdin=subprocess.DEVNULL)  # The first start composes what is kept.
    modules = imported("serve", "--log", str(tmp_path / "log"))
    before = modules[: modules.index("mlzoo.transport.stdio")]
    assert not {"trio", "attr", "orjson", "mlzoo.errors"} & set(before)
    assert "mlzoo.app" in modules
    assert not {"argparse", "torch", "transformers", "anyio"} & set(modules)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["serve", "--log"],
        ["serve", "a=1", "--log", "x", "--no-such=1"],
        ["models", "pull", "smollm2", "--json", "no-override"],
        ["chat", "--temperature", "hot"],
        ["chat", "hello", "--verbose", "no.overrides=1"],
    ],
)
def test_wrong_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert "usage: mlzoo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "command", "example", "told"),
    [
        (["models", "pull"], "models pull", "mlzoo models pull smollm2", "the following arguments are required: NAME"),
        (["models", "pull", "x", "--bad"], "models pull", "mlzoo models pull smollm2", "unrecognized arguments: --bad"),
        (["models"], "models", "mlzoo models list", "the following arguments are required: COMMAND"),
        (["chat", "a", "b"], "chat", "mlzoo chat 'Why is the sky blue?'", "unrecognized arguments: b"),
        (["serve", "a=1", "--x"], "serve", "mlzoo serve --log ./log", "unrecognized arguments: --x"),
    ],
)
def test_wrong_usage_is_told_with_the_usage_of_the_command_that_was_meant_and_an_example(
    arguments, command, example, told, capsys
):
    with pytest.raises(SystemExit):
        cli.main(arguments)
    usage = capsys.readouterr().err
    assert usage.startswith(f"usage: mlzoo {command} ")
    assert f"\nexample: {example}" in usage
    assert usage.endswith(f"mlzoo {command}: error: {told}\n")


def test_overrides_may_stand_between_and_after_options():
    args = cli._parse(["serve", "a=1", "--log", "dir", "b=2", "--parent-pid", "3", "c=4"])
    assert (args.overrides, args.log, args.parent_pid) == (["a=1", "b=2", "c=4"], "dir", 3)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ConfigError("no"), 2),
        (errors.ModelNotFound("no"), 2),
        (errors.StorageFailed("no", reason="failed"), 3),
        (errors.LogUnusable("no", reason="damaged"), 3),
        (errors.LogUnusable("no", reason="locked"), 4),
        (errors.PullFailed("no", reason="disk"), 3),
        (errors.PullFailed("no", reason="offline"), 1),
    ],
)
def test_an_error_tells_a_script_its_kind(error, status):
    assert cli.exit_status(error) == status


def test_a_configuration_that_does_not_hold_is_one_line_and_status_2():
    done = mlzoo("doctor", "no.such=1")
    assert done.returncode == 1  # The doctor reports it as a finding,
    done = mlzoo("serve", "no.such=1")
    assert done.returncode == 2  # the others refuse to run.
    assert done.stderr.startswith(b"mlzoo: ")
    assert b"Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------- stdout

PRINTING = [["--help"], ["chat", "--help"], ["schema"], ["models", "list"], ["models", "list", "--json"], ["devices"]]
posix = pytest.mark.skipif(sys.platform == "win32", reason="the shells of POSIX")


def printing_to(redirection, arguments, unbuffered=""):
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "mlzoo", *arguments]
    environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(command, stderr=subprocess.PIPE, check=False, timeout=120, env=environ)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_what_could_not_be_written_is_never_status_0_and_says_so_in_one_line(arguments, unbuffered):
    done = printing_to("> /dev/full", arguments, unbuffered)
    assert (done.returncode, done.stderr) == (3, b"mlzoo: stdout cannot be written: No space left on device\n")


@posix
@pytest.mark.parametrize("arguments", PRINTING[:4], ids=" ".join)
def test_a_closed_stdout_is_refused_before_anything_is_done(arguments):
    done = printing_to(">&-", arguments)
    assert (done.returncode, done.stderr) == (3, b"mlzoo: stdout is closed, there is nowhere to write to\n")


@posix
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_reader_that_has_left_ends_a_command_quietly(arguments, unbuffered):
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with os.fdopen(write_fd, "wb") as closed:
        command = [sys.executable, "-m", "mlzoo", *arguments]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False, env=environ)
    assert (done.returncode, done.stderr) == (141, b"")


@posix
def test_what_is_said_besides_never_goes_to_stdout_even_where_stderr_is_closed():
    command = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", sys.executable, "-m", "mlzoo", "chat", "--model", "no-such"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (2, b"")


# ------------------------------------------------------------------------------------------- arguments of serve

PLAIN = [
    [],
    ["limits.max_running=8"],
    ["a=1", "b=2", "model=smollm2"],
    ["--log", "dir"],
    ["--log", "a dir", "a=1"],
    ["--parent-pid", "17", "--socket", "s", "--config-dir", "c", "--log", "l", "a=1", "b=c d"],
    ["--log", "x", "--log", "y"],
]
NOT_PLAIN = [
    ["--help"],
    ["-h"],
    ["--log"],
    ["--log="],
    ["--log=dir"],
    ["--log", ""],
    ["--log", "-x"],
    ["--log", "--socket"],
    ["--parent-pid", "me"],
    ["--parent-pid", "-1"],
    ["--parent-pid", "0"],
    ["--parent-pid", ""],
    ["--unknown", "x"],
    ["--", "a=1"],
    ["a=1", "--log", "x"],
    ["a=1", "--log"],
    ["-"],
    [""],
]


@pytest.mark.parametrize("arguments", PLAIN)
def test_plain_arguments_of_serve_read_by_hand_are_what_argparse_reads(arguments):
    args = cli._parse(["serve", *arguments])
    assert serve.parse(arguments) == (args.overrides, args.log, args.parent_pid, args.socket, args.config_dir)


@pytest.mark.parametrize("arguments", NOT_PLAIN)
def test_all_other_forms_are_left_to_argparse(arguments):
    assert serve.parse(arguments) is None
