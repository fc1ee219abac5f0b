"""One talk with a model over the wire: its history, its turns, and the model's weights where they are not here yet.

Knows nothing of terminals: text goes to ``write``, what is said about it to ``note``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from mlzoo.cli.columns import size
from mlzoo.client import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlzoo.cli.progress import ProgressDisplay
    from mlzoo.client import Client

MODEL_NOT_INSTALLED = 1016
NEW = "new"


class Talk:
    """What has been said, and how the next turn is asked for.

    The history is kept here and sent with each turn. A turn that failed stays out of it; of one that was cancelled
    what had been shown stays in. Where a conversation is wished for, the sidecar keeps it, and each turn is sent alone.

    Args:
        client: A running sidecar.
        wishes: Fields of ``chat`` that every turn is sent with: model, sampling.
        write: Takes the text of answers, piece by piece.
        note: Takes what the user should know besides.
        display: Makes what shows progress under a title: on a terminal, and if wished also elsewhere, in lines.
    """

    def __init__(
        self,
        client: Client,
        wishes: dict[str, Any],
        *,
        write: Callable[[str], None],
        note: Callable[[str], None],
        display: Callable[[str, bool], ProgressDisplay],
    ) -> None:
        self.client = client
        self.wishes = wishes
        self.history: list[dict[str, str]] = []
        self._write = write
        self._note = note
        self._display = display

    async def turn(self, text: str) -> Mapping[str, Any]:
        """Ask, write the answer as it comes, and return the result.

        Raises:
            RemoteError: The sidecar refused, or the answer failed on its way.
            SidecarDied: The sidecar is gone.
        """
        question = {"role": "user", "content": text}
        shown: list[str] = []
        try:
            result = await self._answer([*self.history, question], shown)
            if "conversation" in self.wishes:
                self._is_called(result["conversation"])
                return result
        except anyio.get_cancelled_exc_class():
            if shown and "conversation" not in self.wishes:
                self.history += [question, {"role": "assistant", "content": "".join(shown)}]
            raise
        self.history += [question, {"role": "assistant", "content": result["message"]["content"]}]
        return result

    def clear(self) -> None:
        """Begin anew; what a conversation of the sidecar's holds is left as it is."""
        self.history.clear()
        if "conversation" in self.wishes:
            self.wishes["conversation"] = NEW

    def _is_called(self, conversation: str) -> None:
        if self.wishes["conversation"] == NEW:
            self._note(f"this is conversation {conversation}; --conversation {conversation} goes on with it")
        self.wishes["conversation"] = conversation

    async def _answer(self, messages: list[dict[str, str]], shown: list[str]) -> Mapping[str, Any]:
        try:
            return await self._stream(messages, shown)
        except RemoteError as error:
            if error.code != MODEL_NOT_INSTALLED:
                raise
            await self._pull(str(error.data["model"]))
        return await self._stream(messages, shown)

    async def _stream(self, messages: list[dict[str, str]], shown: list[str]) -> Mapping[str, Any]:
        display = self._display(self.wishes.get("model", "the model"), False)
        params = {**self.wishes, "messages": messages}
        try:
            async with self.client.stream("chat", params, on_progress=display.show) as answer:
                async for delta in answer:
                    display.clear()
                    if content := delta.get("content"):
                        shown.append(content)
                        self._write(content)
                result: Mapping[str, Any] = await answer.result()
                return result
        finally:
            display.clear()

    async def _pull(self, model: str) -> None:
        """Bring the weights of a model. This and ``mlzoo models pull`` are all that ever downloads; it is said."""
        info = await self.client.call("models.info", {"model": model})
        estimate = await self.client.call("models.estimate", {"model": model})
        licence = info["licence"]
        what = size(estimate["download_bytes"]) if estimate["download_bytes"] else "it"
        self._note(f"{model} is not installed: pulling {what}, under {licence['spdx']} ({licence['url']})")
        display = self._display(model, True)
        try:
            await self.client.call("models.pull", {"model": model}, on_progress=display.show)
        finally:
            display.clear()
