"""The byte stream over two descriptors, on real pipes, sockets, files and terminals."""

import contextlib
import fcntl
import os
import pty
import socket
import tty

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mlzoo.transport import blocking
from mlzoo.transport.blocking import BlockingStream
from mlzoo.transport.fd import can_read_at_once
from mlzoo.transport.stream import CHUNK_BYTES, SEND_BYTES


class Host:
    """The other end: blocking calls, in threads where they would stop the event loop."""

    def __init__(self, kind):
        self.stream_fds, self.read_fd, self.write_fd = self._make(kind)

    def _make(self, kind):
        if kind == "pipes":
            (stdin, write_fd), (read_fd, stdout) = os.pipe(), os.pipe()
            return (stdin, stdout), read_fd, write_fd
        if kind == "socketpair":
            ours, theirs = (end.detach() for end in socket.socketpair())
            return (ours, os.dup(ours)), theirs, os.dup(theirs)
        if kind == "terminal":
            controller, terminal = pty.openpty()
            tty.setraw(terminal)
            return (terminal, os.dup(terminal)), controller, os.dup(controller)
        raise AssertionError(kind)

    async def read(self, size_bytes):
        """Return exactly size_bytes, or less at the end."""
        data = b""
        while len(data) < size_bytes:
            some = await trio.to_thread.run_sync(os.read, self.read_fd, size_bytes - len(data))
            if not some:
                break
            data += some
        return data

    def close_read(self):
        fd, self.read_fd = self.read_fd, None
        if fd is not None:
            os.close(fd)

    def close_write(self):
        fd, self.write_fd = self.write_fd, None
        if fd is not None:
            os.close(fd)


@pytest.fixture(params=["read by a thread", "read in the loop where that is offered"])
def connect(request, monkeypatch):
    """Return a function that makes a stream and the host at its other end."""
    if request.param == "read by a thread":
        monkeypatch.setattr(blocking, "can_read_at_once", lambda _fd: False)
    hosts = []

    def make(kind="pipes"):
        host = Host(kind)
        hosts.append(host)
        return BlockingStream(*host.stream_fds), host

    yield make
    for host in hosts:
        # Which also ends the threads of the stream.
        host.close_read()
        host.close_write()


async def until(condition):
    """Let everything else run until the condition holds."""
    while not condition():
        await trio.lowlevel.checkpoint()


async def send_and_flush(stream):
    """Send; what breaks does so at once, or as soon as the thread has tried."""
    stream.send_nowait(b"x")
    await stream.flush()


async def fill(stream):
    """Send what no kernel buffer holds, so that the writing thread is in its call until it is read; return its size."""
    assert stream.send_nowait(b"x" * (4 * SEND_BYTES))
    assert not stream.send_nowait(b"more")
    return 4 * SEND_BYTES


@pytest.mark.parametrize("kind", ["pipes", "socketpair", "terminal"])
async def test_bytes_pass_in_both_directions(connect, kind):
    stream, host = connect(kind)
    os.write(host.write_fd, b"ping\n")
    assert await stream.receive_some() == b"ping\n"
    assert stream.send_nowait(b"po")
    await stream.send_all(b"ng\n")
    assert await host.read(5) == b"pong\n"


@pytest.mark.parametrize("kind", ["pipes", "socketpair", "terminal"])
async def test_a_hosts_death_is_the_end_of_input_again_and_again(connect, kind):
    stream, host = connect(kind)
    os.write(host.write_fd, b"last words\n")
    assert await stream.receive_some() == b"last words\n"
    host.close_read()
    host.close_write()
    assert [await stream.receive_some() for _ in range(3)] == [b"", b"", b""]


async def test_a_file_is_read_to_its_end_in_chunks(tmp_path):
    data = os.urandom(5 * CHUNK_BYTES + 1)
    (tmp_path / "in").write_bytes(data)
    stream = BlockingStream(os.open(tmp_path / "in", os.O_RDONLY), os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT))
    chunks = []
    while chunk := await stream.receive_some():
        chunks.append(chunk)
        await stream.send_all(chunk)
    await stream.aclose()
    assert b"".join(chunks) == data
    assert max(map(len, chunks)) <= CHUNK_BYTES
    assert (tmp_path / "out").read_bytes() == data


async def test_the_reader_stays_at_most_two_chunks_ahead_of_its_consumer(tmp_path):
    (tmp_path / "in").write_bytes(bytes(20 * CHUNK_BYTES))
    stdin = os.open(tmp_path / "in", os.O_RDONLY)
    watch = os.dup(stdin)  # It shares the place in the file.
    try:
        stream = BlockingStream(stdin, os.open(os.devnull, os.O_WRONLY))
        for consumed in range(10):
            await until(lambda consumed=consumed: os.lseek(watch, 0, os.SEEK_CUR) >= (consumed + 2) * CHUNK_BYTES)
            assert os.lseek(watch, 0, os.SEEK_CUR) == (consumed + 2) * CHUNK_BYTES
            assert len(await stream.receive_some()) == CHUNK_BYTES
        await stream.aclose()
    finally:
        os.close(watch)


async def test_a_cancelled_receive_ends_at_once_and_loses_nothing(connect):
    stream, host = connect()
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.receive_some()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_some)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    os.write(host.write_fd, b"still here")
    assert await stream.receive_some() == b"still here"


async def test_what_another_process_takes_away_only_keeps_the_receiver_waiting():
    read_fd, write_fd = os.pipe()
    rival_fd = os.dup(read_fd)
    received = []

    async def receive():
        received.append(await stream.receive_some())

    if not can_read_at_once(read_fd):
        pytest.skip("a thread reads here, and is in its call before anybody else")
    stream = BlockingStream(read_fd, os.open(os.devnull, os.O_WRONLY))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        os.write(write_fd, b"first")
        assert os.read(rival_fd, 5) == b"first"
        await wait_all_tasks_blocked()
        assert received == []
        os.write(write_fd, b"second")
    assert received == [b"second"]
    await stream.aclose()
    os.close(rival_fd)
    os.close(write_fd)


async def test_only_one_task_may_receive(connect):
    stream, _ = connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_some)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await stream.receive_some()
        nursery.cancel_scope.cancel()


async def test_receiving_chunk_after_chunk_lets_other_tasks_run(tmp_path):
    (tmp_path / "in").write_bytes(bytes(20 * CHUNK_BYTES))
    stream = BlockingStream(os.open(tmp_path / "in", os.O_RDONLY), os.open(os.devnull, os.O_WRONLY))
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        while await stream.receive_some():
            pass
        nursery.cancel_scope.cancel()
    assert turns >= 19
    await stream.aclose()


async def test_a_host_that_does_not_read_costs_bounded_memory_and_the_event_loop_goes_on(connect):
    stream, host = connect()
    sent_bytes = 0
    for _ in range(1000):
        if stream.send_nowait(b"x" * CHUNK_BYTES):
            sent_bytes += CHUNK_BYTES
        await trio.lowlevel.checkpoint()
    held_by_kernel = fcntl.fcntl(host.read_fd, fcntl.F_GETPIPE_SZ)
    assert SEND_BYTES <= sent_bytes <= SEND_BYTES + held_by_kernel + CHUNK_BYTES
    os.write(host.write_fd, b"ping")
    assert await stream.receive_some() == b"ping"
    assert len(await host.read(sent_bytes)) == sent_bytes
    await stream.send_all(b"again")
    assert await host.read(5) == b"again"


async def test_send_all_waits_for_room_and_a_cancelled_one_has_sent_nothing(connect):
    stream, host = connect()
    sent_bytes = await fill(stream)
    sent = trio.Event()

    async def send(data):
        await stream.send_all(data)
        sent.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, b"never")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, b"later")
        await wait_all_tasks_blocked()
        assert not sent.is_set()
        assert len(await host.read(sent_bytes)) == sent_bytes
        await sent.wait()
    assert await host.read(5) == b"later"


async def test_one_chunk_may_be_larger_than_the_buffer(connect):
    stream, host = connect()
    data = os.urandom(4 * SEND_BYTES)
    assert stream.send_nowait(data)
    assert not stream.send_nowait(b"more")
    assert await host.read(len(data)) == data


async def test_flush_returns_when_the_operating_system_has_all_that_was_sent(connect):
    stream, host = connect()
    sent_bytes = await fill(stream)
    flushed = trio.Event()

    async def flush():
        await stream.flush()
        flushed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flush)
        await wait_all_tasks_blocked()
        assert not flushed.is_set()
        await host.read(sent_bytes)
        await flushed.wait()
    await stream.flush()


async def test_closing_flushes_every_reply_that_is_due(connect):
    stream, host = connect()
    lines = [b"%06d " % number + b"x" * 1000 + b"\n" for number in range(200)]
    host.close_write()
    assert await stream.receive_some() == b""
    for line in lines:
        assert stream.send_nowait(line)
    received = []

    async def read():
        received.append(await host.read(1 << 30))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)  # It reads to the end, so the end comes only by the close.
        await stream.aclose()
    assert received == [b"".join(lines)]


async def test_a_cancelled_close_does_not_wait_for_a_host_that_does_not_read(connect):
    stream, host = connect()
    assert stream.send_nowait(b"x" * (SEND_BYTES - 1))
    assert stream.send_nowait(b"y" * SEND_BYTES)
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.aclose()
    assert scope.cancelled_caught
    assert b"y" not in await host.read(2 * SEND_BYTES)  # What the thread had not begun to write is dropped.


async def test_a_closed_stream_refuses_everything_and_closing_it_again_is_fine(connect):
    stream, _ = connect()
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        stream.send_nowait(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()


async def test_closing_wakes_the_task_that_receives(connect):
    stream, _ = connect()

    async def receive():
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await stream.aclose()


async def test_a_host_that_closes_its_end_breaks_sending_and_closing_still_works(connect):
    stream, host = connect()
    host.close_read()
    with pytest.raises(trio.BrokenResourceError):
        await send_and_flush(stream)
    with pytest.raises(trio.BrokenResourceError):
        stream.send_nowait(b"x")
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")
    await stream.aclose()


async def test_a_sender_that_waits_is_told_when_the_host_closes_its_end(connect):
    stream, host = connect()
    await fill(stream)

    async def send():
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        host.close_read()


async def test_a_full_disk_breaks_sending():
    stream = BlockingStream(os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(trio.BrokenResourceError) as caught:
        await send_and_flush(stream)
    assert isinstance(caught.value.__cause__, OSError)
    await stream.aclose()


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("kind", ["pipes", "socketpair", "terminal"])
async def test_the_flags_of_shared_descriptions_stay_as_the_parent_made_them(kind, blocking):
    host = Host(kind)
    shared = [os.dup(fd) for fd in host.stream_fds]
    for fd in shared:
        os.set_blocking(fd, blocking)
    try:
        stream = BlockingStream(*host.stream_fds)
        os.write(host.write_fd, b"ping\n")
        assert await stream.receive_some() == b"ping\n"
        data = b"x" * (3 * SEND_BYTES)  # More than any kernel buffer, so that writing has to wait.
        assert stream.send_nowait(data)
        assert await host.read(len(data)) == data
        assert [os.get_blocking(fd) for fd in shared] == [blocking, blocking]
    finally:
        for fd in [*shared, host.read_fd, host.write_fd]:
            os.close(fd)
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.flush()
    await stream.aclose()
