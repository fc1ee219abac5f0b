"""A sidecar that misbehaves on request, for what the real one never does. Run as a script: NDJSON on stdio."""

import json
import os
import signal
import subprocess
import sys

received = []


def write(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def notify(method, **params):
    write({"method": method, "params": params})


def delta(request, seq, content):
    notify("stream", request=request, seq=seq, delta={"content": content})


def events(params, name):
    """Send events up to the last in bunches, as a log's cursor does."""
    for log_seq in range(params.get("after", -1) + 1, 5000):
        notify("event", subscription=name, log_seq=log_seq, time_ms=0, type="Noted", version=1, data={})


def answer(request, method, params):
    match method:
        case "echo":
            return params
        case "initialize":
            return {"protocol_version": "1", "limits": {"line_bytes": 65536}, "got": params}
        case "received":
            return received[:-1]
        case "fail":
            write({"id": request, "error": {"code": params["code"], "message": "no", "data": params.get("data")}})
        case "chat":
            for seq, piece in enumerate(params["pieces"]):
                delta(request, seq, piece)
            return {"message": {"content": "".join(params["pieces"])}}
        case "endless":  # Streams, and never ends by itself.
            delta(request, 0, "a")
        case "gap":
            delta(request, 0, "a")
            delta(request, 2, "c")
        case "pull":
            for done in range(params["steps"]):
                notify("progress", request=request, stage="download", done=done, total=params["steps"])
            return {}
        case "cancel":
            if "request" in params:
                failure = {"code": -32800, "message": "cancelled", "data": {"partial": "a"}}
                write({"id": params["request"], "error": failure})
            return {"cancelled": True}
        case "events.subscribe":
            write({"id": request, "result": {"subscription": f"s{request}"}})
            events(params, f"s{request}")
        case "garbage":
            sys.stdout.write(params["line"] + "\n")
            sys.stdout.flush()
        case "nothing":
            return None
        case "die":
            for line in range(params.get("lines", 1)):
                print(f"last words {line}", file=sys.stderr, flush=True)
            if "signal" in params:
                os.kill(os.getpid(), params["signal"])
            sys.stdout.write('{"jsonrpc":"2.0","id":')  # Torn.
            sys.stdout.flush()
            os._exit(params["status"])
        case "shout":
            for _ in range(20_000):
                sys.stderr.write("x" * 79 + "\n")
            return {}
        case "stop_reading":
            delta(request, 0, "from now on")
            signal.pause()
        case "child":
            command = [sys.executable, "-c", "import signal; signal.pause()"]
            return {"pid": subprocess.Popen(command, stdin=subprocess.DEVNULL).pid}
    return answer


def main():
    if "--deaf" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin:
        request = json.loads(line)
        received.append(request)
        result = answer(request.get("id"), request["method"], request["params"])
        if result is not answer and "id" in request:
            write({"id": request["id"], "result": result})
    if "--deaf" in sys.argv or "--stay" in sys.argv:
        print("still here", file=sys.stderr, flush=True)
        while True:
            signal.pause()


main()
