"""mlzoo's transport alone: its stream, framing and JSON-RPC with a ping that is answered inline; no log, no actors."""

from mlzoo.transport.stdio import claim

claimed = claim()

import trio  # noqa: E402 (after the claim)

from mlzoo.transport import jsonrpc  # noqa: E402
from mlzoo.transport.blocking import BlockingStream  # noqa: E402
from mlzoo.transport.ndjson import LineReader  # noqa: E402


async def main():
    stream = BlockingStream(*claimed)
    reader = LineReader(jsonrpc.LINE_BYTES)
    while chunk := await stream.receive_some():
        calls = [jsonrpc.parse(line) for line in reader.feed(chunk)]
        replies = b"".join([jsonrpc.result_line(call.id, {}) for call in calls])
        if not stream.send_nowait(replies):
            await stream.send_all(replies)
    await stream.aclose()


trio.run(main)
