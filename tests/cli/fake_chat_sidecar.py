"""What ``mlzoo chat`` needs of a sidecar, without any model: it answers with what it was asked. Run as a script."""

import json
import sys


class FakeSidecar:
    def __init__(self, *flags):
        self.installed = "--not-installed" not in flags
        self.refuses_pull = "--no-pull" in flags

    def write(self, **message):
        print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)

    def fail(self, request, code, message, **data):
        self.write(id=request, error={"code": code, "message": message, "data": data})

    def stream(self, request, pieces):
        for seq, piece in enumerate(pieces):
            params = {"request": request, "seq": seq, "delta": {"content": piece}}
            self.write(method="stream", params=params)

    def progress(self, request, stage, done, total, unit):
        params = {"request": request, "model": "smollm2", "stage": stage, "done": done, "total": total, "unit": unit}
        self.write(method="progress", params={**params, "message": ""})

    def chat(self, request, params):
        if not self.installed:
            self.fail(request, 1016, "smollm2 is not installed", model="smollm2", download_bytes=1000)
            return
        asked = params["messages"][-1]["content"]
        if asked == "die":
            print("out of luck", file=sys.stderr, flush=True)
            sys.exit(7)
        if asked.startswith("load"):
            self.progress(request, "start", 0, 1, "processes")
        if asked == "load for ever":
            return
        if asked == "wrong":
            self.fail(request, 1010, "this model cannot do that", feature="that")
            return
        if asked == "locked":
            self.fail(request, 1015, "another process holds the log", reason="locked")
            return
        if asked == "for ever":
            self.stream(request, ["on ", "and ", "on"])
            return
        pieces = ["you ", "said ", asked, f" ({len(params['messages'])} messages)"]
        if asked == "params":
            pieces = [json.dumps({name: value for name, value in params.items() if name != "messages"})]
        self.stream(request, pieces)
        result = {
            "model": params.get("model", "smollm2"),
            "device": "cpu",
            "message": {"role": "assistant", "content": "".join(pieces)},
            "finish_reason": "length" if asked == "cut" else "stop",
            "usage": {"prompt_tokens": 3, "completion_tokens": 11},
            "timing": {"queue_ms": 1, "ttft_ms": 100, "total_ms": 600},
        }
        if "conversation" in params:
            named = params["conversation"]
            result |= {"conversation": "conv-1" if named == "new" else named}
        if asked == "long story":
            result |= {"truncated": {"turns": 3}}
        self.write(id=request, result=result)

    def pull(self, request):
        if self.refuses_pull:
            self.fail(request, 1017, "the package index cannot be reached", reason="offline")
            return
        for done in (0, 500, 1000):
            self.progress(request, "download", done, 1000, "bytes")
        self.installed = True
        self.write(id=request, result={})

    def answer(self, request, method, params):
        match method:
            case "chat":
                self.chat(request, params)
            case "models.pull":
                self.pull(request)
            case "models.info":
                licence = {"spdx": "Apache-2.0", "url": "https://example.org/licence"}
                self.write(id=request, result={"licence": licence})
            case "models.estimate":
                self.write(id=request, result={"download_bytes": 1000})
            case "models.list":
                models = [("smollm2", "chat"), ("other", "chat"), ("minilm", "embed")]
                listing = [{"name": name, "kind": kind, "state": "available"} for name, kind in models]
                self.write(id=request, result={"models": listing})


if __name__ == "__main__":
    sidecar = FakeSidecar(*sys.argv[1:])
    for line in sys.stdin:
        message = json.loads(line)
        sidecar.answer(message.get("id"), message["method"], message["params"])
