"""The pytest plugin: tests of an application run against recordings of the sidecar, without a model.

    @pytest.mark.mlzoo_recording("recordings/greeting.ndjson")
    def test_the_greeting_is_shown(replayed_sidecar):
        app = MyApp(sidecar_command=replayed_sidecar.command)

``replayed_sidecar`` gives a command line to spawn, or a client: ``async with replayed_sidecar.spawn() as client`` under
asyncio or trio, ``with replayed_sidecar.connect() as client`` without either. A test whose calls were not the recorded
ones fails at its end, whatever it made of the answers. A test may start the sidecar several times, one after the other:
the n-th start plays the n-th connection of the recording.

``pytest --mlzoo-record`` runs the marked tests against the real sidecar, and writes the recordings that they name anew
where they pass. Where several tests name one file the first that passes makes it, and the others play it.

``pytest --mlzoo-recording PATH`` plays one recording in place of all that markers name; so ``mlzoo replay shrink`` can
try candidates. Exit status 18 then says that a test's session was not the recorded one: that is not how the test fails.

Paths are relative to the test's own file. The marker takes ``connection=`` where one connection of several is meant,
and, for recording, ``overrides=`` (settings of the sidecar, as on its command line) and ``redact=True``.
"""

from __future__ import annotations

import re
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from mlzoo.errors import ConfigError, MlzooError, NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from anyio.from_thread import BlockingPortal

    from mlzoo.client import Client
    from mlzoo.events.recording import Recording

MARKER = "mlzoo_recording"
OTHER_STATUS = 18
"""Of pytest, with ``--mlzoo-recording``: the session was not the recorded one (error 1018 on the wire)."""
PASSED = pytest.StashKey[bool]()
IS_OTHER = pytest.StashKey[bool]()
RECORDED = pytest.StashKey[dict[Path, str]]()


@attrs.frozen(kw_only=True)
class Marked:
    """What a test's marker says."""

    path: Path
    connection: str | None = None
    overrides: tuple[str, ...] = ()
    redact: bool = False


KEYWORDS = frozenset({"connection", "overrides", "redact"})


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

    def __init__(self, marked: Marked, directory: Path, played: Recording | None) -> None:
        self.recording = marked.path
        self.records = played is None
        self._marked = marked
        self._directory = directory
        self._log = directory / "log"
        self._connections = [] if played is None else _connections(marked, played)
        self.command = self._real() if played is None else self._played()

    def _real(self) -> list[str]:
        return [sys.executable, "-m", "mlzoo", "serve", "--log", str(self._log), *self._marked.overrides]

    def _played(self) -> list[str]:
        command = [sys.executable, "-m", "mlzoo", "replay", "play", str(self.recording)]
        connection = self._marked.connection
        if connection is None:
            return [*command, "--in-turn", str(self._directory)]
        return [*command, "--connection", connection, "--report", str(self._directory / "1.report")]

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
        reports = self._reports()
        if not any(reports):
            return f"{self.recording} was not played to its end: the test spawned no sidecar, or left it running"
        for name, report in zip(self._connections, reports, strict=True):
            if report is None:
                started = sum(map(bool, reports))
                what = f"the test started a sidecar {started} times, and the recording holds {len(reports)} connections"
                if len(list(self._directory.glob("*.taken"))) > started:
                    what = "the test left its sidecar running"
                one = f'mark it with connection="{self._connections[0]}" if that one alone is meant'
                return f"{name} of {self.recording} was not played to its end: {what}; {one}"
            if not report.endswith(": all as recorded\n"):
                return f"{self.recording}:\n{report}" if len(reports) == 1 else f"{self.recording}, {name}:\n{report}"
        if (self._directory / "more").exists():
            return f"the test started a sidecar more often than the {len(reports)} times that {self.recording} has"
        return None

    def is_other(self) -> bool:
        """Whether the test sent anything that is not recorded; what it did not send is not looked at."""
        counts = [re.search(r"mismatched (\d+)", report) for report in self._reports() if report is not None]
        return (self._directory / "more").exists() or any(count is not None and count[1] != "0" for count in counts)

    def _reports(self) -> list[str | None]:
        """Return for each connection what its player reported, None where it did not."""
        paths = [self._directory / f"{number}.report" for number, _ in enumerate(self._connections, 1)]
        return [path.read_text(encoding="utf-8") if path.exists() else None for path in paths]

    def write(self) -> None:
        """Make a recording of what the real sidecar did.

        Raises:
            NotFound: It was not started, or heard nothing.
            MlzooError: Its log cannot be read.
        """
        from mlzoo.replay.export import export  # noqa: PLC0415 - as above
        from mlzoo.replay.redaction import BUILT_IN  # noqa: PLC0415
        from mlzoo.world import real_world  # noqa: PLC0415

        self.recording.parent.mkdir(parents=True, exist_ok=True)
        export(real_world(), self._log, self.recording, rules=BUILT_IN if self._marked.redact else ())


def _connections(marked: Marked, played: Recording) -> list[str]:
    """Return the connections that a test is to play.

    Raises:
        ConfigError: There are none, or not the one that is named.
    """
    names = played.connections()
    if not names:
        raise ConfigError(f"{marked.path} holds no connection that could be played")
    if marked.connection is None:
        return names
    if marked.connection not in names:
        there = ", ".join(names)
        raise ConfigError(f"there is no connection {marked.connection} in {marked.path}, only {there}")
    return [marked.connection]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("mlzoo")
    group.addoption(
        "--mlzoo-record",
        action="store_true",
        help="run tests marked with mlzoo_recording against the real sidecar, and write their recordings anew",
    )
    group.addoption(
        "--mlzoo-recording",
        metavar="PATH",
        help="play this recording in place of those that markers name; exit with 18 where it is not a test's session",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Say what the marker means."""
    line = f"{MARKER}(path, connection=None, overrides=(), redact=False): the recording that replayed_sidecar plays"
    config.addinivalue_line("markers", line)
    config.stash[RECORDED] = {}
    if not config.getoption("--mlzoo-record"):
        return
    if config.getoption("--mlzoo-recording") is not None:
        raise pytest.UsageError("--mlzoo-record writes what markers name: leave out --mlzoo-recording")
    if config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        raise pytest.UsageError("--mlzoo-record runs tests one after the other: leave out -n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Remember whether a test passed: what a failed one did is no recording."""
    report: pytest.TestReport = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    if item.stash.get(IS_OTHER, False) and item.config.getoption("--mlzoo-recording") is not None:
        report.user_properties.append((MARKER, OTHER_STATUS))
    return report


class _Outcome:
    """Ends a run with the status that says that no test has failed as it was to."""

    def __init__(self) -> None:
        self.is_other = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look at what a test made of its recording; it may have run in another process."""
        self.is_other = self.is_other or (MARKER, OTHER_STATUS) in map(tuple, report.user_properties)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Say so."""
        if self.is_other:
            session.exitstatus = OTHER_STATUS


def pytest_sessionstart(session: pytest.Session) -> None:
    """Look at the outcome of tests where one recording stands for all."""
    if session.config.getoption("--mlzoo-recording") is not None:
        session.config.pluginmanager.register(_Outcome())


@pytest.fixture
def replayed_sidecar(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ReplayedSidecar]:
    """Give a sidecar that plays the recording which the test's marker names."""
    marked = _marked(request)
    recorded, node = request.config.stash[RECORDED], request.node
    instead = request.config.getoption("--mlzoo-recording")
    if instead is not None:
        marked = attrs.evolve(marked, path=request.config.invocation_params.dir / instead)
    records = request.config.getoption("--mlzoo-record") and marked.path not in recorded
    try:
        played = None if records else _read(marked.path)
        sidecar = ReplayedSidecar(marked, tmp_path_factory.mktemp("sidecar"), played)
    except MlzooError as error:
        node.stash[IS_OTHER] = True
        pytest.fail(error.message, pytrace=False)
    yield sidecar
    passed = node.stash.get(PASSED, False)
    complaint = sidecar.complaint() if played is not None else _write(sidecar) if passed else None
    node.stash[IS_OTHER] = (passed and complaint is not None) or sidecar.is_other()
    if records and passed and complaint is None:
        recorded[marked.path] = node.nodeid
    if complaint is None or not passed:
        return
    if marked.path in recorded:
        complaint += f"\n{recorded[marked.path]} recorded it in this run: a test of another session needs its own file"
    pytest.fail(complaint, pytrace=False)


def _read(path: Path) -> Recording:
    from mlzoo.events import recording  # noqa: PLC0415 - a run of pytest that has no such test does without

    try:
        return recording.read(path)
    except FileNotFoundError:
        raise NotFound(f"there is no {path}: pytest --mlzoo-record makes it") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _write(sidecar: ReplayedSidecar) -> str | None:
    """Write a recording; return why there is none."""
    try:
        sidecar.write()
    except NotFound:
        return f"{sidecar.recording} was not recorded: the test started no sidecar, or sent it nothing"
    except (MlzooError, OSError) as error:
        return f"{sidecar.recording} was not recorded: {error}"
    return None


def _marked(request: pytest.FixtureRequest) -> Marked:
    marker = request.node.get_closest_marker(MARKER)
    if marker is None or len(marker.args) != 1:
        pytest.fail(f'say which recording: @pytest.mark.{MARKER}("path")', pytrace=False)
    unknown = [name for name in marker.kwargs if name not in KEYWORDS]
    if unknown:
        pytest.fail(f"{MARKER} knows no {unknown[0]!r}: it takes {', '.join(sorted(KEYWORDS))}", pytrace=False)
    wishes = {name: tuple(value) if name == "overrides" else value for name, value in marker.kwargs.items()}
    make: Callable[..., Marked] = Marked
    return make(path=(request.path.parent / marker.args[0]).resolve(), **wishes)
