"""A program on a leash ends with whoever holds the other end of its stdin."""

import os
import subprocess
import sys


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "mlzoo.store.leash", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **options,
    )


def test_a_module_runs_as_a_program_with_its_arguments_and_its_status(tmp_path, monkeypatch):
    (tmp_path / "program.py").write_text("import sys; print(__name__, sys.argv[1:]); sys.exit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with start("program", "a", "b") as process:
        assert process.stdout.read() == b"__main__ ['a', 'b']\n"
        assert process.wait(60) == 3


def test_it_leaves_at_once_when_its_stdin_ends(tmp_path, monkeypatch):
    (tmp_path / "endless.py").write_text("import threading; print('up', flush=True); threading.Event().wait()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with start("endless") as process:
        assert process.stdout.readline() == b"up\n"
        process.stdin.close()
        assert process.wait(60) == 1
