"""Inputs are checked with the path of what is wrong, and read as the model was trained to read them."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mlzoo.errors import ConfigError, InvalidParams, TooLarge
from mlzoo.parts import Part
from mlzoo.pipelines import make

COLUMNS = {"age": [20.0, 40.0], "job": ["smith", "baker"]}


def table(columns=COLUMNS, **options):
    kinds = options or {"age": "number", "job": {"type": "category", "missing": "fill"}}
    return make(Part("tabular", {"columns": kinds})).fit(columns)


def images(**options):
    return make(Part("image", {"height": 4, "width": 4, **options}))


def base64_of(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def a_bomb(width, height):
    """A PNG that says in its header that it is enormous; there are no pixels in it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks:
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("row", "path", "told"),
    [
        ({"age": "old", "job": "smith"}, "inputs[1].age", "a number"),
        ({"age": True, "job": "smith"}, "inputs[1].age", "a number"),
        ({"age": -1e39, "job": "smith"}, "inputs[1].age", "a number of the size of those that it has learned from"),
        ({"age": float("nan"), "job": "smith"}, "inputs[1].age", "a number"),
        ({"job": "smith"}, "inputs[1].age", "it is missing"),
        ({"age": 3, "job": 7}, "inputs[1].job", "as a text"),
        ({"ages": 3, "job": "smith"}, "inputs[1]", "did you mean age?"),
        ("age", "inputs[1]", "an object with age, job"),
    ],
)
def test_a_row_that_does_not_hold_is_told_with_its_path(row, path, told):
    with pytest.raises(InvalidParams) as caught:
        table().read([{"age": 1, "job": "smith"}, row])
    assert caught.value.data["path"] == path
    assert told in caught.value.message


def test_numbers_are_normalised_and_what_is_missing_is_told_to_the_model():
    pipeline = table({"x": [1.0, 3.0, None]}, x={"type": "number", "missing": "fill"})
    batch = pipeline.collate(pipeline.read([{"x": 3}, {"x": 1}, {}, {"x": None}]))
    np.testing.assert_array_equal(batch["numbers"], [[1, 0], [-1, 0], [0, 1], [0, 1]])
    assert pipeline.shapes().numbers == 2


def test_categories_that_were_not_learned_are_one_of_their_own_unless_they_are_refused():
    rows = [{"age": 1, "job": job} for job in ("baker", "smith", "pilot", None)]
    pipeline = table()
    np.testing.assert_array_equal(pipeline.collate(pipeline.read(rows))["categories"], [[1], [2], [0], [0]])
    assert pipeline.shapes().categories == (3,)
    strict = table({"job": ["smith"]}, job={"type": "category", "unknown": "refuse"})
    with pytest.raises(InvalidParams, match=r"inputs\[0\].job: expected one of smith"):
        strict.read([{"job": "pilot"}])


def test_what_was_learned_comes_back_from_its_state():
    part = Part("tabular", {"columns": {"age": "number", "job": "category"}})
    learned = make(part).fit(COLUMNS)
    again = make(part, state=learned.state())
    rows = [{"age": 33, "job": "baker"}]
    first, second = (pipeline.collate(pipeline.read(rows)) for pipeline in (learned, again))
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def test_nothing_is_read_before_anything_was_learned():
    with pytest.raises(ConfigError, match="fit it first"):
        make(Part("tabular", {"columns": {"age": "number"}})).read([{"age": 1}])


def test_training_data_is_checked_too():
    with pytest.raises(InvalidParams, match=r"age\[1\]: expected a number: it is missing"):
        table({"age": [1, None], "job": ["a", "b"]}, age="number")
    with pytest.raises(InvalidParams, match="did you mean age"):
        table({"ages": [1]}, age="number")


def test_pictures_are_scaled_and_normalised():
    pipeline = images(channels=3, mean=[0.5, 0.5, 0.5], deviation=[0.5])
    white, black = (base64_of(Image.new("RGB", (9, 5), colour)) for colour in ("white", "black"))
    pixels = pipeline.collate(pipeline.read([white, f"data:image/jpeg;base64,{black}"]))["pixels"]
    assert pixels.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(pixels[0], 1)
    np.testing.assert_allclose(pixels[1], -1)


def test_an_enormous_picture_is_refused_by_its_header():
    with pytest.raises(TooLarge, match=r"inputs\[0\] is a picture of 50000 x 50000") as caught:
        images().read([a_bomb(50_000, 50_000)])
    assert caught.value.data == {"limit": 20_000_000, "got": 2_500_000_000}


def test_an_endless_file_is_refused_before_it_is_decoded():
    with pytest.raises(TooLarge, match="bytes, 30 are allowed"):
        images(most_bytes=30).read([base64_of(Image.new("L", (9, 9)))])


@pytest.mark.parametrize(
    ("value", "path", "told"),
    [
        ("!!!", "inputs[0]", "base64"),
        ("aGVsbG8=", "inputs[0]", "a whole picture"),
        (base64_of(Image.effect_noise((64, 64), 9))[:200], "inputs[0]", "a whole picture"),
        ("data:text/plain,hello", "inputs[0]", "a data URL that begins"),
        ({"image": 7}, "inputs[0].image", "a picture"),
        ({"picture": ""}, "inputs[0]", '{"image": ...}'),
        (base64_of(Image.new("L", (4, 4)), "TIFF"), "inputs[0]", "one of PNG"),
    ],
)
def test_what_is_no_picture_is_told(value, path, told):
    with pytest.raises(InvalidParams) as caught:
        images().read([value])
    assert caught.value.data["path"] == path
    assert told in caught.value.message


def test_a_pipeline_that_does_not_exist_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean tabular"):
        make(Part("tabullar"))
