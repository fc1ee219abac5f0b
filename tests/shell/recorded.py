"""What the log of a simulated disk holds in the very moment in which a sidecar speaks, and what must hold of it."""

from functools import cache
from typing import get_args

import orjson
from schema_reader import faults

from mlzoo.api.methods import METHODS
from mlzoo.api.openrpc import document
from mlzoo.events import types as ev

TRANSIENT = {kind.__name__ for kind in get_args(ev.Event) if getattr(kind, "TRANSIENT", False)}
ENDS = {"RequestRefused", "RequestCompleted", "RequestReplied", "RequestCancelled", "RequestFailed"}
TERMINAL = ENDS | {"RequestAttached"}
UNRECORDABLE = {1014, 1015}  # what the log itself cannot take


def records(disk, directory, *, durable):
    """Return the whole records that were written, or that are durable, in order."""
    files = (disk.durable_files if durable else disk.files).get(str(directory), {})
    lines = []
    for name in sorted(name for name in files if name.endswith(".ndjson")):  # What was cut lies beside them.
        data = files[name].durable if durable else bytes(files[name].data)
        *whole, _ = data.split(b"\n")
        lines += map(orjson.loads, whole)
    return [line for line in lines if "segment" not in line]


@cache
def schemas():
    """Return the schema of each method's result and of each notification's params, and what they refer to."""
    contract = document()
    results = {method["name"]: method["result"]["schema"] for method in contract["methods"]}
    params = {notification["name"]: notification["x-params"] for notification in contract["x-notifications"]}
    return results, params, contract["components"]["schemas"]


class Watch:
    """Looks at each line that a sidecar lets go of: is it in the log, and is it what the contract says?"""

    def __init__(self, disk, path, host):
        self._disk = disk
        self._path = path
        self._host = host
        self.faults = []  # not raised: the sidecar would take them for its own

    def groups(self, *, durable):
        return records(self._disk, self._path / "segments", durable=durable)

    def asides(self):
        return records(self._disk, self._path / "asides", durable=False)

    def look(self, line):
        for message in line if isinstance(line, list) else [line]:
            self.faults += self._broken_promises(message)
            if not self._is_recorded(message):
                self.faults.append(f"not recorded: {message}")

    def _broken_promises(self, message):
        results, params, components = schemas()
        if "result" in message:
            return faults(message["result"], results[self._host.methods[message["id"]]], components)
        return faults(message["params"], params[message["method"]], components) if "method" in message else ()

    def _is_recorded(self, message):
        match message.get("method"):
            case "stream":
                return self._streamed(message["params"])
            case "event":
                return self._happened(message["params"])
            case "progress":
                return any(a["method"] == "progress" and a["params"] == message["params"] for a in self.asides())
            case None:
                return self._answered(message)
            case _:
                return False

    def _answered(self, message):
        id_, error = message["id"], message.get("error")
        if error is not None and error["code"] in UNRECORDABLE:
            return True
        spec = METHODS.get(self._host.methods.get(id_, ""))
        if spec is not None and spec.wait:
            done = self.groups(durable=True)
            requests = {r["data"]["request"] for r in done if (r["data"].get("caller") or {}).get("rpc") == id_}
            calls = [r for r in self.groups(durable=False) if r["type"] == "RequestAttached"]
            requests |= {r["data"]["target"] for r in calls if r["data"]["caller"]["rpc"] == id_}
            ends = ENDS | ({"RequestSuspended"} if _goes_on(error) else set())
            if any(r["type"] in ends and r["data"]["request"] in requests for r in done):
                return True
        said = [a for a in self.asides() if a["rpc"] == id_]
        if error is not None:
            return any(a["failure"] == _failure(error) for a in said if "failure" in a)
        return any(a.get("result") in (None, message["result"]) for a in said if "failure" not in a)

    def _streamed(self, params):
        written = self.groups(durable=False)
        ours = {
            r["data"].get("target", r["data"]["request"])
            for r in written
            if r["type"] in {"RequestAccepted", "RequestAttached"} and r["data"]["caller"]["rpc"] == params["request"]
        }
        texts = {r["log_seq"]: r["text"] for r in written if r["type"] == "ReportStep"}
        return any(
            texts[r["group"][0]][r["data"]["row"]].get("content", params["delta"].get("content", ""))
            == params["delta"].get("content", "")
            for r in written
            if r["type"] == "RequestStreamed" and r["data"]["request"] in ours and r["data"]["seq"] == params["seq"]
        )

    def _happened(self, params):
        written = self.groups(durable=False)
        [found] = [r for r in written if r["log_seq"] == params["log_seq"]]
        group = [r for r in written if r["group"][0] == found["group"][0]]
        if any(r["kind"] == "event" and r["type"] not in TRANSIENT for r in group):
            [found] = [r for r in self.groups(durable=True) if r["log_seq"] == params["log_seq"]]
        return found["type"] == params["type"] and found["data"] == params["data"]

    def look_at_the_whole(self):
        """Each request that was accepted has one end and nothing after it, or waits for the next sidecar."""
        ended, seqs, suspended, keys = {}, {}, {}, set()
        accepted = []
        for record in self.groups(durable=False):
            if record["kind"] == "command":
                continue
            request = record["data"].get("request")
            assert request is None or request not in ended, f"{record['type']} follows the end of {request}"
            if record["type"] == "RequestAccepted":
                assert request not in accepted
                accepted.append(request)
                key = record["data"].get("key", request)
                assert key not in keys, "a key ran twice"
                keys.add(key)
            if request is not None:
                suspended[request] = record["type"] == "RequestSuspended"
            if record["type"] == "RequestStreamed" and record["data"]["seq"] is not None:
                assert record["data"]["seq"] == seqs.get(request, -1) + 1
                seqs[request] = record["data"]["seq"]
            if record["type"] in TERMINAL:
                ended[request] = record["type"]
        return [request for request in accepted if request not in ended and not suspended[request]]


def _goes_on(error):
    return error is not None and error.get("data", {}).get("resumable", False)


def _failure(error):
    return {"code": error["code"], "message": error["message"], "data": error.get("data", {})}
