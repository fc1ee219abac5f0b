"""Images in messages: from a ``data:`` URL to a picture, within bounds, and from messages with pictures to a prompt.

Knows transformers' processors and Pillow; nothing of models or requests. An image is looked at before it is decoded:
what would take more memory than anybody means to send is refused by its header.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from mlzoo.errors import InvalidParams, ModelLoadFailed, TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.Image import Image

    from mlzoo.frames import Load, Messages

SEES = "it sees images, which are read with its own code"
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MOST_BYTES = 12 * 1024 * 1024  # of one image as it is encoded; a line of 16 MiB holds no more
MOST_PIXELS = 32 * 1024 * 1024  # of one image: 96 MiB once it is decoded
SENT = "a data: URL of base64, such as data:image/png;base64,..."


def sees(load: Load) -> bool:
    """Whether what lies in a model's directory reads images: it has a part that sees, and a processor for it."""
    directory = Path(load.path)
    if not any((directory / name).is_file() for name in PROCESSORS):
        return False
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError):
        return False  # Whoever loads it will say so.
    return isinstance(config, dict) and "vision_config" in config


def kind_of(load: Load) -> Any:
    """Return the class of transformers that makes a model which chats."""
    return AutoModelForImageTextToText if sees(load) else AutoModelForCausalLM


def eyes_of(load: Load) -> Eyes | None:
    """Return what reads a model's images; None where it sees none.

    Raises:
        ModelLoadFailed: Its processor cannot be loaded.
    """
    if not sees(load):
        return None
    try:
        processor = AutoProcessor.from_pretrained(
            load.path, local_files_only=True, trust_remote_code=load.trust_remote_code
        )
    except Exception as error:
        # Loading runs a library over files of strangers: it raises what it likes, and all of it means the same.
        message = f"the image processor of {load.model} could not be loaded: {error}"
        raise ModelLoadFailed(message, model=load.model) from error
    return Eyes(processor)


def picture(url: str, path: str) -> Image:
    """Return the picture of a ``data:`` URL, in red, green and blue.

    Args:
        url: What the host sent.
        path: Where, for messages.

    Raises:
        InvalidParams: It is another URL, no image, or of another format.
        TooLarge: It has too many bytes or pixels; nothing was decoded then.
    """
    from PIL import Image as images  # noqa: N813, PLC0415 - most models see nothing

    header, _, payload = url.partition(",")
    if not header.startswith("data:"):
        raise _refusal(path, SENT, "a local model fetches nothing: read the image, and send it within the message")
    if not header.endswith(";base64"):
        raise _refusal(path, SENT, "this is not base64")
    size_bytes = len(payload) * 3 // 4
    if size_bytes > MOST_BYTES:
        told = f"{path} is an image of {size_bytes} bytes, {MOST_BYTES} are allowed: make it smaller"
        raise TooLarge(told, limit=MOST_BYTES, got=size_bytes)
    try:
        encoded = base64.b64decode(payload, validate=True)
    except binascii.Error:
        raise _refusal(path, SENT, "this is not base64") from None
    expected = f"an image that is whole, one of {', '.join(FORMATS)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", images.DecompressionBombWarning)  # That is looked at here.
            image = images.open(io.BytesIO(encoded), formats=FORMATS)
            size = image.width * image.height
            if size > MOST_PIXELS:
                told = f"{path} is an image of {image.width} by {image.height}, which is {size} pixels"
                raise TooLarge(f"{told}; {MOST_PIXELS} are allowed: make it smaller", limit=MOST_PIXELS, got=size)
            return image.convert("RGB")
    except images.DecompressionBombError:
        told = f"{path} is an image of many times {MOST_PIXELS} pixels, which are allowed: make it smaller"
        raise TooLarge(told, limit=MOST_PIXELS, got=0) from None
    except (OSError, SyntaxError, ValueError, EOFError):
        raise _refusal(path, expected, "this cannot be read") from None


class Eyes:
    """What makes a prompt of messages with images, for one model.

    Args:
        processor: The model's own.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def read(self, messages: Messages, tools: Sequence[dict[str, Any]]) -> tuple[tuple[int, ...], dict[str, Any]]:
        """Return the tokens of messages, and what else the model is given with the first of them.

        Raises:
            InvalidParams: An image cannot be taken.
            Exception: The template or the processor refuses the messages.
        """
        pictures = [picture(url, path) for path, url in _urls(messages)]
        plain = [{**message, "content": [_plain(part) for part in _parts(message)]} for message in messages]
        given = {"tools": list(tools)} if tools else {}
        text = self._processor.apply_chat_template(plain, tokenize=False, add_generation_prompt=True, **given)
        read = dict(
            self._processor(text=[text], images=pictures or None, add_special_tokens=False, return_tensors="pt")
        )
        tokens = tuple(read.pop("input_ids")[0].tolist())
        read.pop("attention_mask", None)
        return tokens, read


def _refusal(path: str, expected: str, why: str) -> InvalidParams:
    return InvalidParams(f"expected {expected}; {why}", path=path, expected=expected)


def _parts(message: dict[str, Any]) -> Sequence[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _plain(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "image"} if part["type"] == "image_url" else part


def _urls(messages: Messages) -> Iterator[tuple[str, str]]:
    for place, message in enumerate(messages):
        for index, part in enumerate(_parts(message)):
            if part["type"] == "image_url":
                yield f"messages[{place}].content[{index}].image_url.url", part["image_url"]["url"]
