"""Rows of one request put together: what two of them say, said by one. Knows nothing of who says or hears it."""

from __future__ import annotations

from mlzoo.frames import Row


def hold(held: dict[str, Row], row: Row) -> None:
    """Put a row behind what is held of its request."""
    earlier = held.get(row.request)
    held[row.request] = row if earlier is None else joined(earlier, row)


def joined(row: Row, later: Row) -> Row:
    """Return two rows of one request as one; neither is a summary."""
    return Row(
        request=row.request,
        content=row.content + later.content,
        tokens=row.tokens + later.tokens,
        logprobs=row.logprobs + later.logprobs,
        prompt_tokens=row.prompt_tokens if later.prompt_tokens is None else later.prompt_tokens,
        cached_tokens=later.cached_tokens or row.cached_tokens,
        truncated=later.truncated or row.truncated,
        finish_reason=later.finish_reason,
        tool_calls=row.tool_calls + later.tool_calls,
        reasoning=row.reasoning + later.reasoning,
        completion_tokens=row.completion_tokens if later.completion_tokens is None else later.completion_tokens,
    )
