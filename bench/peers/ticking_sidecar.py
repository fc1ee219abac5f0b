"""The whole sidecar with one task more in its event loop, which notes how late a sleep of a millisecond ends.

``ticking_sidecar.py LOG FILE``: serves as ``mlzoo serve --log LOG`` does, then leaves in FILE pairs of doubles: when a
sleep ended (``time.monotonic``), and how late, both in seconds.
"""

from mlzoo.transport.stdio import claim

claimed = claim()

import gc  # noqa: E402 (after the claim; the collector is treated as ``mlzoo serve`` treats it)

gc.disable()
import sys  # noqa: E402
import time  # noqa: E402
from array import array  # noqa: E402
from pathlib import Path  # noqa: E402

import trio  # noqa: E402

from mlzoo.app import Sidecar  # noqa: E402
from mlzoo.config import load  # noqa: E402
from mlzoo.world import real_world  # noqa: E402

gc.freeze()
gc.enable()
TICK_S = 0.001


async def tick(samples):
    while True:
        due = trio.current_time() + TICK_S
        await trio.sleep_until(due)
        samples.extend((time.monotonic(), trio.current_time() - due))


async def main(log, file):
    samples = array("d")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick, samples)
        status = await Sidecar(load(()), real_world()).run(claimed, log=log, parent_pid=None, socket=None)
        nursery.cancel_scope.cancel()
    file.write_bytes(samples.tobytes())
    return status


sys.exit(trio.run(main, Path(sys.argv[1]), Path(sys.argv[2])))
