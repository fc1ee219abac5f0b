"""What the tests of pulls share: running one, and seeing what it left."""

import subprocess
import sys

import attrs
import orjson
import psutil
import pytest
import trio

from mlzoo.errors import PullFailed
from mlzoo.store.pulling import pull


def ignore(progress):
    """Take no notice of how far a pull is."""


def visible(store):
    """Return what whoever looks for models can see."""
    return sorted(
        path.relative_to(store.root).as_posix()
        for path in store.root.rglob("*")
        if path.is_file() and not path.relative_to(store.root).as_posix().startswith((".partial", ".locks"))
    )


def left_behind(store):
    return sorted(path.name for path in store.root.glob(".partial/*/*"))


async def reason_of(store, entry, **options):
    with pytest.raises(PullFailed) as caught:
        await pull(store, entry, ignore, **options)
    assert caught.value.data["model"] == entry.name
    return caught.value.data["reason"], caught.value.message


async def stopped(server):
    """Wait until a download has stopped in the middle."""
    assert await trio.to_thread.run_sync(server.stopped.wait, 60)


def start(store, entry, *wrapper):
    """Start a pull as a sidecar does; wrapper is the beginning of a command line that runs it."""
    told = {"root": str(store.root), "entry": attrs.asdict(entry), "accept_license": False}
    command = [*wrapper, sys.executable, "-m", "mlzoo.store.leash", "mlzoo.store.pull", orjson.dumps(told).decode()]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def processes_of(store):
    """Return the processes that work for a store: its pulls and their children."""
    mine = psutil.Process().children(recursive=True)
    alive = [process for process in mine if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    # Python's own, which whoever used several processes before leaves to the end of this one.
    return [process for process in alive if "multiprocessing.resource_tracker" not in " ".join(process.cmdline())]
