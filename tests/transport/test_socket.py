"""Serving several clients on a Unix socket."""

import errno
import os
import socket
import stat
import sys

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mlzoo.errors import ConfigError, Unsupported
from mlzoo.transport import unix
from mlzoo.transport.socket import serve_socket


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sidecar.sock"


async def echo(stream):
    while chunk := await stream.receive_some():
        await stream.send_all(chunk)


async def read_to_the_end(client):
    data = b""
    async for chunk in client:
        data += chunk
    return data


async def test_several_clients_are_served_at_once(nursery, path):
    await nursery.start(serve_socket, path, echo)
    clients = [await trio.open_unix_socket(path) for _ in range(5)]
    for number, client in enumerate(clients):
        await client.send_all(b"%d" % number)
    for number, client in enumerate(clients):
        assert await client.receive_some(10) == b"%d" % number
        await client.aclose()


async def test_what_is_due_is_flushed_when_the_client_has_sent_its_last_line(nursery, path):
    await nursery.start(serve_socket, path, echo)
    client = await trio.open_unix_socket(path)
    data = os.urandom(1_000_000)
    async with trio.open_nursery() as sending:

        async def send():
            await client.send_all(data)
            await client.send_eof()

        sending.start_soon(send)
        assert await read_to_the_end(client) == data
    await client.aclose()


async def test_a_client_that_vanishes_disturbs_nobody(nursery, path):
    await nursery.start(serve_socket, path, echo)
    stays = await trio.open_unix_socket(path)
    leaves = await trio.open_unix_socket(path)
    await leaves.send_all(b"x")
    await leaves.aclose()
    await stays.send_all(b"ping")
    assert await stays.receive_some(10) == b"ping"
    await stays.aclose()


async def test_cancelling_ends_every_client_and_its_threads(nursery, path):
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as serving:
            await serving.start(serve_socket, path, echo)
            client = await trio.open_unix_socket(path)
            await client.send_all(b"ping")
            assert await client.receive_some(10) == b"ping"
            scope.cancel()
    assert await read_to_the_end(client) == b""
    await client.aclose()


async def test_the_next_client_waits_until_one_leaves(nursery, path):
    await nursery.start(lambda task_status: serve_socket(path, echo, clients=1, task_status=task_status))
    first = await trio.open_unix_socket(path)
    second = await trio.open_unix_socket(path)
    await second.send_all(b"second")
    await first.send_all(b"first")
    assert await first.receive_some(10) == b"first"
    await wait_all_tasks_blocked()
    await first.aclose()
    assert await second.receive_some(10) == b"second"
    await second.aclose()


async def test_a_peer_of_another_user_is_hung_up_on(nursery, path):
    with unix.listening(path) as listener:
        nursery.start_soon(unix.accept_all, listener, echo, trio.Semaphore(1), os.getuid() + 1)
        client = await trio.open_unix_socket(path)
        assert await read_to_the_end(client) == b""
        await client.aclose()
        nursery.cancel_scope.cancel()


async def test_a_client_of_which_the_kernel_tells_nothing_is_hung_up_on_alone(nursery, path, monkeypatch):
    def tell_nothing(_client):
        raise OSError(errno.ENOTCONN, "the peer has left")

    await nursery.start(serve_socket, path, echo)
    with monkeypatch.context() as patch:
        patch.setattr(unix, "peer_uid", tell_nothing)
        client = await trio.open_unix_socket(path)
        assert await read_to_the_end(client) == b""
        await client.aclose()
    client = await trio.open_unix_socket(path)
    await client.send_all(b"still here")
    await client.send_eof()
    assert await read_to_the_end(client) == b"still here"
    await client.aclose()
    nursery.cancel_scope.cancel()


def test_the_kernel_names_the_peers_user():
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert unix.peer_uid(ours) == os.getuid()


async def test_the_socket_is_its_owners_alone_and_gone_at_the_end(path):
    old_mask = os.umask(0)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_socket, path, echo)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            nursery.cancel_scope.cancel()
    finally:
        os.umask(old_mask)
    assert not path.exists()


async def test_a_socket_that_a_dead_process_left_is_replaced(nursery, path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    await nursery.start(serve_socket, path, echo)
    client = await trio.open_unix_socket(path)
    await client.send_all(b"ping")
    assert await client.receive_some(10) == b"ping"
    await client.aclose()


async def test_a_socket_that_somebody_listens_at_is_left_alone(nursery, path):
    await nursery.start(serve_socket, path, echo)
    with pytest.raises(ConfigError, match="another process listens"):
        await serve_socket(path, echo)
    client = await trio.open_unix_socket(path)
    await client.send_all(b"ping")
    assert await client.receive_some(10) == b"ping"
    await client.aclose()


async def test_a_file_in_its_place_is_left_alone(path):
    path.write_text("precious")
    with pytest.raises(ConfigError, match="is no socket"):
        await serve_socket(path, echo)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["absent/sidecar.sock", "x" * 200])
async def test_a_path_that_cannot_hold_a_socket_is_a_clear_error(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot listen at"):
        await serve_socket(tmp_path / name, echo)


async def test_another_ones_socket_is_not_removed_at_the_end(path):
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_socket, path, echo)
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
        nursery.cancel_scope.cancel()
    assert path.exists()


async def test_windows_is_told_what_to_use_instead(path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(Unsupported, match="use stdio"):
        await serve_socket(path, echo)
