"""The pytest plugin: tests of an application run against recordings of the sidecar, without a model.

    @pytest.mark.mlzoo_recording("recordings/greeting.ndjson")
    def test_the_greeting_is_shown(replayed_sidecar):
        app = MyApp(sidecar_command=replayed_sidecar.command)

``replayed_sidecar`` gives a command line to spawn, or a client: ``async with replayed_sidecar.spawn() as client`` under
asyncio or trio, ``with replayed_sidecar.connect() as client`` without either. A test whose calls were not the recorded
ones fails at its end, whatever it made of the answers. ``pytest --mlzoo-record`` runs the marked tests against the real
sidecar, and writes the recordings that they name anew where they pass.

Paths are relative to the test's own file. The marker takes ``connection=`` where a recording holds several, and, for
recording, ``overrides=`` (settings of the sidecar, as on its command line) and ``redact=True``.
"""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from anyio.from_thread import BlockingPortal

    from mlzoo.client import Client

MARKER = "mlzoo_recording"
PASSED = pytest.StashKey[bool]()


@attrs.frozen(kw_only=True)
class Marked:
    """What a test's marker says."""

    path: Path
    connection: str | None = None
    overrides: tuple[str, ...] = ()
    redact: bool = False


class BlockingClient:
    """A client for tests that are no coroutines. Each call returns when its answer is there."""

    def __init__(self, portal: BlockingPortal, client: Client) -> None:
        self._portal = portal
        self.client = client

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return the result of a call; raises as ``mlzoo.client.Client.call`` does."""
        return self._portal.call(self.client.call, method, params)

    def stream(self, method: str, params: Mapping[str, Any] | None = None) -> tuple[list[Mapping[str, Any]], Any]:
        """Return the pieces of an answer, and its result; raises as ``call`` does."""

        async def whole() -> tuple[list[Mapping[str, Any]], Any]:
            async with self.client.stream(method, params) as answer:
                return [delta async for delta in answer], await answer.result()

        pieces, result = self._portal.call(whole)
        return pieces, result


class ReplayedSidecar:
    """A sidecar as a test has it: a recording of one, or, while recording, a real one.

    Attributes:
        command: The command line to spawn, once.
        recording: The file.
    """

    def __init__(self, marked: Marked, directory: Path, *, records: bool) -> None:
        self.recording = marked.path
        self.records = records
        self._marked = marked
        self._log = directory / "log"
        self._report = directory / "report"
        self.command = self._real() if records else self._played()

    def _real(self) -> list[str]:
        return [sys.executable, "-m", "mlzoo", "serve", "--log", str(self._log), *self._marked.overrides]

    def _played(self) -> list[str]:
        command = [sys.executable, "-m", "mlzoo", "replay", "play", str(self.recording), "--report", str(self._report)]
        connection = self._marked.connection
        return command if connection is None else [*command, "--connection", connection]

    @asynccontextmanager
    async def spawn(self) -> AsyncIterator[Client]:
        """Run it for the length of a block, under asyncio or trio."""
        from mlzoo.client import spawn  # noqa: PLC0415 - a run of pytest that has no such test does without

        async with spawn(self.command) as client:
            yield client

    @contextmanager
    def connect(self) -> Iterator[BlockingClient]:
        """Run it for the length of a block, its event loop in a thread."""
        from anyio.from_thread import start_blocking_portal  # noqa: PLC0415 - as above

        with start_blocking_portal("trio") as portal, portal.wrap_async_context_manager(self.spawn()) as client:
            yield BlockingClient(portal, client)

    def complaint(self) -> str | None:
        """Return why the session was not the recorded one; None where it was."""
        try:
            report = self._report.read_text(encoding="utf-8")
        except FileNotFoundError:
            return f"{self.recording} was not played to its end: the test spawned no sidecar, or left it running"
        return None if report.endswith(": all as recorded\n") else f"{self.recording}:\n{report}"

    def write(self) -> None:
        """Make a recording of what the real sidecar did."""
        from mlzoo.replay.export import export  # noqa: PLC0415 - as above
        from mlzoo.replay.redaction import BUILT_IN  # noqa: PLC0415
        from mlzoo.world import real_world  # noqa: PLC0415

        self.recording.parent.mkdir(parents=True, exist_ok=True)
        export(real_world(), self._log, self.recording, rules=BUILT_IN if self._marked.redact else ())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--mlzoo-record``."""
    parser.getgroup("mlzoo").addoption(
        "--mlzoo-record",
        action="store_true",
        help="run tests marked with mlzoo_recording against the real sidecar, and write their recordings anew",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Say what the marker means."""
    line = f"{MARKER}(path, connection=None, overrides=(), redact=False): the recording that replayed_sidecar plays"
    config.addinivalue_line("markers", line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Remember whether a test passed: what a failed one did is no recording."""
    report: pytest.TestReport = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture
def replayed_sidecar(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ReplayedSidecar]:
    """Give a sidecar that plays the recording which the test's marker names."""
    marked = _marked(request)
    records = bool(request.config.getoption("--mlzoo-record"))
    if not records and not marked.path.exists():
        pytest.fail(f"there is no {marked.path}: pytest --mlzoo-record makes it", pytrace=False)
    sidecar = ReplayedSidecar(marked, tmp_path_factory.mktemp("sidecar"), records=records)
    yield sidecar
    if not request.node.stash.get(PASSED, False):
        return
    if records:
        sidecar.write()
    elif (complaint := sidecar.complaint()) is not None:
        pytest.fail(complaint, pytrace=False)


def _marked(request: pytest.FixtureRequest) -> Marked:
    marker = request.node.get_closest_marker(MARKER)
    if marker is None or len(marker.args) != 1:
        pytest.fail(f'say which recording: @pytest.mark.{MARKER}("path")', pytrace=False)
    wishes = {name: tuple(value) if name == "overrides" else value for name, value in marker.kwargs.items()}
    make: Callable[..., Marked] = Marked
    return make(path=request.path.parent / marker.args[0], **wishes)
