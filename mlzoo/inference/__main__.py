"""The worker process: ``python -m mlzoo.inference --fd N --parent-pid P --device cpu``.

Sets the process up first, listens to the socket, and imports torch after that. The socket is inherited: a file
descriptor on POSIX, a handle on Windows.
"""

from __future__ import annotations

import argparse
import gc
import socket
import sys

from mlzoo.inference import process
from mlzoo.inference.link import Link


def main(arguments: list[str]) -> None:
    """Run a worker until its socket ends or it is told to leave."""
    parser = argparse.ArgumentParser(prog="python -m mlzoo.inference", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the inherited socket")
    parser.add_argument("--parent-pid", type=int, required=True, help="the process that this one must not outlive")
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0, mps")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: one for each usable processor")
    parser.add_argument("--processors", default="", help="that it may run on, such as 0,1; empty: all that there are")
    parser.add_argument("--wait-policy", choices=["adaptive", "passive", "active"], default="passive")
    given = parser.parse_args(arguments)
    process.bind(tuple(int(number) for number in given.processors.split(",") if number))
    process.prepare(given.parent_pid, given.threads, given.wait_policy)

    link = Link(socket.socket(fileno=given.fd))
    link.listen()
    # What is imported stays for ever: looking through it for garbage, time and again, takes a quarter of the import.
    gc.disable()
    from mlzoo.inference import worker  # noqa: PLC0415 - torch reads the environment when it is imported

    gc.freeze()
    gc.enable()
    worker.run(link, given.device, given.threads, given.wait_policy)


if __name__ == "__main__":
    main(sys.argv[1:])
