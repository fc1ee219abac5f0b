"""Images in chat: seen where the model has eyes, within bounds, and said clearly where it has none."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib

import attrs
import pytest
import torch
from PIL import Image
from tiny_models import BASE, ask, load, run, tokenizer
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.images import MOST_BYTES, MOST_PIXELS
from mlzoo.inference.loader import load_chat

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
SIDE, PATCH = 30, 15
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model of random weights that sees four patches of an image."""
    directory = tmp_path_factory.mktemp("llava")
    spoken = tokenizer(template=TEMPLATE)
    spoken.add_special_tokens({"additional_special_tokens": ["<image>"]})
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**size, image_size=SIDE, patch_size=PATCH, initializer_range=0.3),
        text_config=LlamaConfig(**{**BASE, "vocab_size": len(spoken)}),
        image_token_index=spoken.convert_tokens_to_ids("<image>"),
    )
    LlavaForConditionalGeneration(config).eval().save_pretrained(directory)
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        spoken,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def model(directory):
    return load_chat(load(directory), CPU)


def encoded(image, kind="PNG"):
    bytes_of = io.BytesIO()
    image.save(bytes_of, kind)
    return bytes_of.getvalue()


def url(content, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(seed, kind="PNG"):
    values = torch.randint(0, 256, (40, 50, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(values.numpy())


def part(address):
    return {"type": "image_url", "image_url": {"url": address}}


def look(request, *addresses, **fields):
    content = [{"type": "text", "text": "the quick "}, *map(part, addresses), {"type": "text", "text": " fox"}]
    return ask(request, messages=({"role": "user", "content": content},), **fields)


def test_an_answer_is_that_of_transformers_own_generate(model, directory):
    heard = run(BatchEngine(model), look("r", url(encoded(picture(1)))))
    processor = LlavaProcessor.from_pretrained(directory)
    module = LlavaForConditionalGeneration.from_pretrained(directory, attn_implementation="eager").eval()
    parts = [{"type": "text", "text": "the quick "}, {"type": "image"}, {"type": "text", "text": " fox"}]
    text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[picture(1)], add_special_tokens=False, return_tensors="pt")
    expected = module.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
    assert heard.tokens("r") == expected
    assert heard.rows["r"][0].prompt_tokens == inputs["input_ids"].shape[1]


def test_what_is_seen_matters(model):
    frames = [look(f"r{seed}", url(encoded(picture(seed))), logprobs=True, max_tokens=1) for seed in (1, 2)]
    heard = run(BatchEngine(model), *frames)
    assert heard.rows["r1"][0].logprobs != heard.rows["r2"][0].logprobs


def test_images_of_each_format_are_seen_several_in_one_message_too(model):
    addresses = [url(encoded(picture(1), kind)) for kind in ("PNG", "JPEG", "WEBP", "GIF")]
    heard = run(BatchEngine(model), look("r", *addresses))
    one = run(BatchEngine(model), look("r", addresses[0]))
    assert heard.others == []
    assert heard.rows["r"][0].prompt_tokens == one.rows["r"][0].prompt_tokens + 3 * 4


def test_text_alone_is_answered_too_whether_in_parts_or_not(model):
    whole = ask("r", messages=({"role": "user", "content": "the quick"},))
    parts = ask("r", messages=({"role": "user", "content": [{"type": "text", "text": "the quick"}]},))
    assert run(BatchEngine(model), whole).rows == run(BatchEngine(model), parts).rows
    assert run(BatchEngine(model), ask("r", "the quick")).others == []


@pytest.mark.parametrize("resume", ["exact", "prefill"])
def test_it_goes_on_after_an_interruption(model, resume):
    frame = look("r", url(encoded(picture(3))), temperature=1.0, seed=2)
    whole = run(BatchEngine(model), frame).rows["r"]
    before = whole[:5]
    tokens = tuple(token for row in before for token in row.tokens)
    cut = attrs.evolve(frame, resume=resume, tokens=tokens, said="".join(row.content for row in before))
    assert run(BatchEngine(model), cut).rows["r"] == whole[5:]


def test_an_answer_about_an_image_may_have_a_form(model):
    form = {"type": "json_schema", "json_schema": {"schema": {"enum": ["fox", "dog"]}}}
    heard = run(BatchEngine(model), look("r", url(encoded(picture(1))), response_format=form, max_tokens=40))
    assert json.loads(heard.text("r")) in {"fox", "dog"}


def png_of(width, height):
    """A whole PNG by its header, which has next to nothing in it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


REFUSED = {
    "a remote address": ("https://example.org/fox.png", "a local model fetches nothing"),
    "a file": ("file:///fox.png", "a local model fetches nothing"),
    "no base64": ("data:image/png,fox", "this is not base64"),
    "broken base64": ("data:image/png;base64,@@@", "this is not base64"),
    "no image": (url(b"fox"), "this cannot be read"),
    "half an image": (url(encoded(picture(1))[:900]), "this cannot be read"),
    "a format of little use": (url(encoded(picture(1), "BMP")), "this cannot be read"),
}
TOO_LARGE = {
    "too many pixels": (url(png_of(9000, 9000)), MOST_PIXELS),
    "a bomb": (url(png_of(60000, 60000)), MOST_PIXELS),
    "too many bytes": (url(bytes(13 * 1024 * 1024)), MOST_BYTES),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_what_is_too_large_is_refused_before_it_is_decoded(model, what):
    address, limit = TOO_LARGE[what]
    [failed] = run(BatchEngine(model), look("r", address)).others
    assert (failed.code, failed.data["limit"]) == (1011, limit)
    assert "messages[0].content[1].image_url.url" in failed.message


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_taken_is_refused_with_its_place(model, what):
    address, why = REFUSED[what]
    [failed] = run(BatchEngine(model), look("r", address)).others
    assert (failed.code, failed.data["path"]) == (-32602, "messages[0].content[1].image_url.url")
    assert why in failed.message
    assert "fox.png" not in failed.message


def test_a_model_without_eyes_says_so(tiny):
    [failed] = run(BatchEngine(tiny), look("r", url(encoded(picture(1))))).others
    assert (failed.code, failed.data["feature"]) == (1010, "vision")


def test_what_was_chosen_is_told(model):
    assert model.batching == "serial"
    assert any("it sees images" in why for why in model.why)
