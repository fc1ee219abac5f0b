"""A whole sidecar in one trio run: its real actors and wiring, with the world around it simulated."""

import os
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import orjson
import trio
from fake_worker import Workshop
from memory_host import Host
from recorded import Watch

import mlzoo.app
from mlzoo.actors.ledger import recover
from mlzoo.config import Config
from mlzoo.config.schema import Defaults, Licence, Limits, LogConfig, ModelEntry
from mlzoo.devices import Device
from mlzoo.events import story
from mlzoo.events.log import Log
from mlzoo.simulation.disk import SimulatedDisk
from mlzoo.simulation.world import simulated_world
from mlzoo.transport.stderr import StderrLog

LOG = Path("/log")
FOR_EVER_S = 1e6
GIB = 1 << 30


def entry(name, kind, **more):
    settings = {"slots": 8, "memory_bytes": 100, "keep_alive_s": 60.0, **more}
    return ModelEntry(name=name, kind=kind, source=f"path:/{name}", licence=Licence(spdx="MIT", url="u"), **settings)


def install(store, model):
    """Write what an installed model has in the store."""
    (store / model.name / "weights").mkdir(parents=True, exist_ok=True)
    manifest = {
        "format": 1,
        "source": model.source,
        "source_sha256": "0" * 64,
        "path": "weights",
        "digest": "d" * 64,
        "size_bytes": 10,
        "converted_by": None,
        "files": [],
    }
    (store / model.name / "manifest.json").write_bytes(orjson.dumps(manifest))


class Sidecar:
    """What a test may touch of one life."""

    def __init__(self, config, disk, workshop, stderr, seed):
        self.config = config
        self.disk = disk
        self.workshop = workshop
        self.host = Host()
        self.watch = Watch(disk, LOG, self.host)
        self.watches = [self.watch]
        self.host.on_line = self.watch.look
        self.stderr = stderr
        self.devices = (
            Device(name="cpu", kind="cpu", description="toy", memory_total_bytes=GIB, memory_free_bytes=GIB),
        )
        self.held_probe = None  # an event for which looking at the devices waits
        self.app = mlzoo.app.Sidecar(
            config,
            simulated_world(seed, disk),
            probe=self._probe,
            spawn=workshop,
            stderr=StderrLog(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND)),
        )
        self.status = None
        self.ended = trio.Event()

    async def _probe(self):
        await trio.lowlevel.checkpoint()
        if self.held_probe is not None:
            await self.held_probe.wait()
        return self.devices

    async def sleep_h(self, hours):
        await trio.sleep(3600 * hours)

    def jump_wall_clock_h(self, hours):
        self.services.world.clock.jump_wall(3_600_000 * hours)

    @property
    def services(self):
        return self.app._services

    @property
    def state(self):
        return self.services.state

    def chat(self, prompt, **params):
        message = {"role": "user", "content": prompt}
        return self.host.send("chat", {"model": "toy", "messages": [message], **params})

    def stderr_text(self):
        """What it has told of itself; its thread writes that, so it is closed first, and tells no more."""
        assert self.app._stderr.close()
        return self.stderr.read_text()

    async def worker(self, number=0):
        return await self.workshop.worker(number)

    async def synced(self):
        """Wait until all that is in the log is synced; something at its end asks for that."""
        log = self.services.log
        while log.synced < log.last_seq:
            moved = trio.Event()
            log.on_progress.append(moved.set)
            await moved.wait()
            log.on_progress.remove(moved.set)

    async def live(self):
        self.status = await self.app.live(self.host, log=LOG)
        self.ended.set()

    def connect(self):
        """Have another client come in, as one does over a socket; its ids are not those of the first host."""
        client = Host(first_id=1_000_000 * (len(self.services.connections) + 1))
        self.watches.append(Watch(self.disk, LOG, client))
        client.on_line = self.watches[-1].look
        self.nursery.start_soon(self.app._serve_client, client)
        return client

    async def leave(self):
        """Close stdin, and wait for the end."""
        self.host.close()
        await self.ended.wait()


class Lives:
    """Makes sidecars, one after the other on one disk."""

    def __init__(self, tmp_path):
        self.store = tmp_path / "store"
        self.stderr = tmp_path / "stderr"
        self.disk = SimulatedDisk()
        self.keys = LOG / "keys"
        self.models = {model.name: model for model in (entry("toy", "chat"), entry("vec", "embed"))}
        for model in self.models.values():
            install(self.store, model)
        self.broken = {}
        self.broken_providers = {}
        self.providers = {}
        self.routes = {}
        self.log = LogConfig()
        self.limits = Limits(disk_reserve_bytes=0)
        self._seed = 0

    def config(self):
        return Config(
            limits=self.limits,
            log=self.log,
            defaults=Defaults(chat="toy", embed="vec"),
            models=self.models,
            store=str(self.store),
            broken=self.broken,
            broken_providers=self.broken_providers,
            providers=self.providers,
            routes=self.routes,
        )

    def limit(self, **limits):
        self.limits = attrs.evolve(self.limits, **limits)

    @asynccontextmanager
    async def begin(self, *, leave=True):
        """Run a sidecar. Where it lives to its end, its log is looked at: whole, and folding to the last state."""
        self._seed += 1
        sidecar = Sidecar(self.config(), self.disk, Workshop(), self.stderr, self._seed)
        with trio.fail_after(FOR_EVER_S):
            async with trio.open_nursery() as nursery:
                sidecar.nursery = nursery
                nursery.start_soon(sidecar.live)
                yield sidecar
                if leave:
                    await sidecar.leave()
                nursery.cancel_scope.cancel()
        for watch in sidecar.watches:
            assert watch.faults == [], "said and not recorded, or not what was promised"
        if leave and sidecar.status == mlzoo.app.EXIT_DONE and sidecar.services.unusable is None:
            await self.look_back(sidecar)

    async def look_back(self, sidecar):
        assert sidecar.watch.look_at_the_whole() == [], "accepted and never ended"
        assert story.verify(sidecar.app._world, LOG).faults == ()
        assert await self.folded() == sidecar.state

    async def folded(self):
        """The state that the log leads to, as a next sidecar would find it."""
        disk = self.disk.copy()
        log = await Log.open(LOG, simulated_world(99, disk), self.log, version="0")
        state = recover(log)
        await log.close()
        return state
