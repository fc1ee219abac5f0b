"""A package index and a model hub on loopback, with the faults that real ones have."""

import abc
import contextlib
import hashlib
import json
import struct
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def safetensors(size_bytes=64):
    """Return a whole safetensors file with one tensor of bytes."""
    header = b'{"weight":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size_bytes, size_bytes)
    return struct.pack("<Q", len(header)) + header + bytes(i % 251 for i in range(size_bytes))


MODEL = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "1_Pooling/config.json": b"{}",
    "model.safetensors": safetensors(),
}


def build_wheel(directory: Path, package: str, version: str, files: dict[str, bytes]) -> Path:
    """Build a wheel that holds files; its digest depends on them alone."""
    name = package.replace("-", "_")
    path = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for member, content in {**files, **metadata}.items():
            wheel.writestr(zipfile.ZipInfo(member), content)
        record = "".join(f"{member},,\n" for member in (*files, *metadata, f"{info}/RECORD"))
        wheel.writestr(zipfile.ZipInfo(f"{info}/RECORD"), record)
    return path


class Server(abc.ABC):
    """An HTTP server that can stop in the middle of a body, count what was asked for, and refuse."""

    def __init__(self):
        self.requests: list[str] = []
        self.credentials: dict[str, str | None] = {}  # path -> what was sent with it
        self.status = 200
        self.stop_after_bytes: int | None = None
        self.stopped = threading.Event()  # set when a body has stopped in the middle
        self.go_on = threading.Event()  # what a stopped body waits for
        self.closes = False  # whether its connection is closed then
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.handle(self)

            def do_HEAD(self):
                outer.handle(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.go_on.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def handle(self, handler):
        asked = handler.headers.get("Range")
        self.requests.append(f"{handler.command} {handler.path}" + (f" {asked}" if asked else ""))
        self.credentials[handler.path.split("?")[0]] = handler.headers.get("Authorization")
        status, headers, body = self.answer(handler.path) if self.status == 200 else (self.status, {}, b"no")
        start = 0
        if status == 200 and asked:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            status, headers = 206, {**headers, "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        body = body[start:]
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if self.stop_after_bytes is not None and len(body) > self.stop_after_bytes:
            sent, self.stop_after_bytes = self.stop_after_bytes, None
            handler.wfile.write(body[:sent])
            handler.wfile.flush()
            self.stopped.set()
            self.go_on.wait()
            body = body[len(body) if self.closes else sent :]
            handler.close_connection = self.closes
        with contextlib.suppress(ConnectionError):  # whoever was killed reads no more
            handler.wfile.write(body)

    @abc.abstractmethod
    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body."""


class PackageIndex(Server):
    """The simple repository API over a directory of wheels."""

    def __init__(self, directory: Path):
        super().__init__()
        self.directory = directory

    def answer(self, path):
        if path.startswith("/files/"):
            file = self.directory / path.removeprefix("/files/")
            return (200, {"Content-Type": "application/zip"}, file.read_bytes()) if file.exists() else (404, {}, b"")
        package = path.strip("/").split("/")[-1].replace("-", "_")
        links = [f'<a href="/files/{wheel.name}">{wheel.name}</a>' for wheel in self.directory.glob(f"{package}-*.whl")]
        page = "<!DOCTYPE html><html><body>" + "".join(links) + "</body></html>"
        return (200, {"Content-Type": "text/html"}, page.encode()) if links else (404, {}, b"")


class ModelHub(Server):
    """The part of a model hub's API that a download uses, for one repository."""

    def __init__(self, repository: str, files: dict[str, bytes]):
        super().__init__()
        self.repository, self.files = repository, files
        self.commit = "c" * 40
        self.gated = False
        self.lies: dict[str, str] = {}  # file -> the digest that the hub claims

    def answer(self, path):
        route = path.split("?")[0]
        if self.gated and "/resolve/" in route:
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, b""
        if route.startswith(f"/api/models/{self.repository}"):
            return self._json(
                {
                    "id": self.repository,
                    "sha": self.commit,
                    "siblings": [self._sibling(name) for name in self.files],
                }
            )
        if route.startswith("/cdn/"):
            return 200, {"Accept-Ranges": "bytes"}, self.files[route.removeprefix("/cdn/")]
        name = route.removeprefix(f"/{self.repository}/resolve/{self.commit}/")
        if name not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if name.endswith(".safetensors"):  # large files lie elsewhere, at a host of their own
            return 302, {"Location": f"http://localhost:{self.server.server_port}/cdn/{name}"}, b""
        return 200, {"Accept-Ranges": "bytes"}, self.files[name]

    def _sibling(self, name):
        content = self.files[name]
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        known = {"rfilename": name, "size": len(content), "blobId": self.lies.get(name, blob)}
        if name.endswith(".safetensors"):
            digest = hashlib.sha256(content).hexdigest()
            known["lfs"] = {"sha256": self.lies.get(name, digest), "size": len(content), "pointerSize": 100}
        return known

    @staticmethod
    def _json(value):
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
