"""Unix sockets: a listener that only its owner can connect to, and its clients as byte streams.

Knows neither framing nor requests. Not for Windows; ``mlzoo.transport.socket`` is the door.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import sys
from typing import TYPE_CHECKING

import trio

from mlzoo.errors import ConfigError
from mlzoo.transport.blocking import BlockingStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from mlzoo.transport.stream import ByteStream

assert sys.platform != "win32"  # The type checker reads on only where this holds.

OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
PAUSE_S = 0.1  # Before accepting again where there are no descriptors left: others have to close theirs first.


async def accept_all(
    listener: socket.socket, handler: Callable[[ByteStream], Awaitable[object]], free: trio.Semaphore, owner_uid: int
) -> None:
    """Run the handler for each client that belongs to the owner, until cancelled; the others are hung up on."""
    accepting = trio.socket.from_stdlib_socket(listener)
    async with trio.open_nursery() as nursery:
        while True:
            await free.acquire()
            try:
                accepted, _ = await accepting.accept()
            except OSError as error:
                free.release()
                if error.errno in OUT_OF_DESCRIPTORS:
                    await trio.sleep(PAUSE_S)
                elif error.errno != errno.ECONNABORTED:  # That one gave up before its turn came.
                    raise
                continue
            nursery.start_soon(_serve, socket.socket(fileno=accepted.detach()), handler, free, owner_uid)


async def _serve(
    client: socket.socket, handler: Callable[[ByteStream], Awaitable[object]], free: trio.Semaphore, owner_uid: int
) -> None:
    """Serve one client to its end, and close whatever happens."""
    try:
        stream = _stream_of(client, owner_uid)
        if stream is None:
            return
        try:
            await handler(stream)
        except* trio.BrokenResourceError:
            pass  # The client left before its answer, which ends its connection and nothing else.
        finally:
            await stream.aclose()
    finally:
        # A shutdown ends the calls in which the stream's threads may still be blocked.
        with contextlib.suppress(OSError):  # The client may have left before.
            client.shutdown(socket.SHUT_RDWR)
        client.close()
        free.release()


def _stream_of(client: socket.socket, owner_uid: int) -> BlockingStream | None:
    """Return the stream of a client; None where it is not to be served, or cannot be.

    It may have left already, and then some kernels do not tell whose it was; or there may be no descriptors left. That
    is the end of this client, and of nobody else.
    """
    fds: list[int] = []
    try:
        if peer_uid(client) != owner_uid:  # Mode 0600 keeps others out already, save root and odd file systems.
            return None
        client.setblocking(True)  # The description is this process's own; the stream's threads wait in their calls.
        fds.append(os.dup(client.fileno()))
        fds.append(os.dup(client.fileno()))
    except OSError:
        for fd in fds:
            os.close(fd)
        return None
    return BlockingStream(*fds)


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen at path, and clean up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        inode = _bind(listener, path)
        try:
            yield listener
        finally:
            if path.exists() and path.stat().st_ino == inode:  # By now it may be another's.
                path.unlink()


def _bind(listener: socket.socket, path: Path) -> int:
    """Put a socket at path to which only its owner can connect, and return its inode."""
    try:
        with _alone_in(path.parent):
            _remove_stale(path)
            listener.bind(str(path))
            # Nobody can connect before listen() is called, so the umask, which all threads share, is left alone.
            path.chmod(0o600)
            listener.listen()
            return path.stat().st_ino
    except OSError as error:
        raise ConfigError(f"cannot listen at {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Keep two processes from finding the same stale socket, of which the later would remove the other's new one."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)  # Which unlocks.


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens at.

    Raises:
        ConfigError: somebody listens, or it is no socket.
    """
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise ConfigError(f"{path} exists and is no socket: name another path, or remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        else:
            raise ConfigError(f"another process listens at {path}")


def peer_uid(client: socket.socket) -> int:
    """Return the user id of the process at the other end of a Unix socket, as the kernel has it.

    Raises:
        OSError: the kernel does not tell.
    """
    if sys.platform == "linux":
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[1])  # pid, uid, gid
    else:  # noqa: RET505 (the type checker knows by it what holds here)
        import ctypes  # noqa: PLC0415 (a megabyte that Linux does not need)

        uid, gid = ctypes.c_uint32(), ctypes.c_uint32()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.getpeereid(client.fileno(), ctypes.byref(uid), ctypes.byref(gid)) != 0:
            raise OSError(ctypes.get_errno(), "getpeereid failed")
        return uid.value
