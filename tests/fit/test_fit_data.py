"""Data files: what is read of them, and what is said of those that cannot be learned from, line and column included."""

import attrs
import orjson
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet
from tables import write_csv

from mlzoo.errors import ConfigError
from mlzoo.fit import files
from mlzoo.fit.columns import samples
from mlzoo.fit.settings import DataSettings, SplitSettings
from mlzoo.fit.splitting import split
from mlzoo.parts import Part, ZooSpec

TEXT = ZooSpec(Part("transformer"), Part("classification"), Part("text"))
TABLE = ZooSpec(Part("mlp"), Part("classification"), Part("tabular"))
NUMBERS = ZooSpec(Part("mlp"), Part("regression"), Part("tabular"))
SPANS = ZooSpec(Part("transformer"), Part("tagging"), Part("text"))


@pytest.fixture
def data(tmp_path):
    def read(content, name="data.csv", **settings):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return files.read(DataSettings(path=str(path), **settings))

    return read


def refusal(call, *args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    return caught.value.message


def texts(labels):
    return "text,label\n" + "".join(f"text {n},{label}\n" for n, label in enumerate(labels))


def learned(file, spec=TEXT, **settings):
    return samples(file, DataSettings(path=file.path, **{"input": "text", **settings}), spec)


def test_the_three_formats_hold_the_same(data, tmp_path):
    rows = [{"text": "a\nb", "size": 1.5}, {"text": "c", "size": 2.0}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    columns = {"text": ["a\nb", "c"], "size": [1.5, 2.0]}
    assert files.read(DataSettings(path=str(tmp_path / "data.parquet"))).columns == columns
    assert data('{"text":"a\\nb","size":1.5}\n\n{"text":"c","size":2}\n', "data.jsonl").columns == columns
    assert data('text,size\n"a\nb",1.5\nc,2.0\n').columns == {"text": ["a\nb", "c"], "size": ["1.5", "2.0"]}
    assert data("text\tsize\nc\t2\n", "data.tsv").columns == {"text": ["c"], "size": ["2"]}


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        (b"", "a.csv", "a.csv is empty"),
        (b"text,label\n", "a.csv", "a.csv has no rows"),
        (b'text,label\n"a\nb",x\nc\n', "a.csv", "a.csv, line 4: expected 2 columns as in the header, got 1"),
        (b'text,label\n"a,b\n', "a.csv", "a.csv, line 2: unexpected end of data"),
        (b"text,text\na,b\n", "a.csv", "two columns are called 'text'"),
        (b"text,label\na,\xe4\n", "a.csv", "a.csv, line 2: no UTF-8 (byte 0xe4 at column 3)"),
        ("text,label\n".encode("utf-16"), "a.csv", "a.csv is UTF-16: write it as UTF-8"),
        (b'{"a":1}\n{"a":}\n', "a.jsonl", "a.jsonl, line 2: no JSON"),
        (b'{"a":1}\n[1]\n', "a.jsonl", "a.jsonl, line 2: expected an object"),
        (b'{"a":1}\n{"a":"x"}\n', "a.jsonl", "a.jsonl, line 2, column 'a': a text, but a number in line 1"),
        (b"PK", "a.parquet", "a.parquet is no Parquet file"),
        (b"a", "a.dat", "say csv, jsonl or parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_line(data, content, name, told):
    assert told in refusal(data, content, name)


def test_a_file_that_is_not_there_is_told(tmp_path):
    assert "does not exist" in refusal(files.read, DataSettings(path=str(tmp_path / "no.csv")))
    assert "is a directory" in refusal(files.read, DataSettings(path=str(tmp_path)))


def test_what_is_to_be_learned_is_no_feature(data):
    file = data("a,label\n1,x\n2,y\n3,x\n")
    told = refusal(learned, file, TABLE, input=None, features=("a", "label"), target="label")
    assert told == "data.features: 'label' is what is to be learned: take it out of data.features"


def test_a_missing_column_is_told_with_the_nearest_one(data):
    assert "did you mean label?" in refusal(learned, data(texts("aabb")), target="lable")
    assert "data.input" in refusal(learned, data(texts("aabb")), input="txt")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (texts(["a", "", "b", "b"]), "line 3, column 'label': the class is empty"),
        (texts(["a", "NaN", "b", "NaN", "b"]), "line 3, column 'label': the class is NaN, which is no number"),
        (texts("aaaa"), "all 4 rows are of the class 'a'"),
        (texts("abcd"), "each row has a class of its own"),
        ("text,label\nx,a\n,a\ny,b\nz,b\n", "line 3, column 'text': nothing is there"),
    ],
)
def test_classes_that_cannot_be_learned_are_told_with_line_and_column(data, content, told):
    assert told in refusal(learned, data(content))


def test_labels_are_found_in_the_data_and_numbers_may_be_classes(data):
    found = learned(data('{"text":"a","label":1}\n{"text":"b","label":0}\n{"text":"c","label":1}\n', "a.jsonl"))
    assert (found.spec.labels, found.targets) == (("0", "1"), ["1", "0", "1"])


def test_the_columns_of_a_table_are_of_the_type_that_their_cells_are(data):
    found = learned(data("a,b,label\n1,red,x\n2.5,blue,y\n3,red,x\n"), TABLE, input=None)
    assert found.spec.pipeline.options["columns"] == {"a": "number", "b": "category"}
    assert found.inputs[1] == {"a": 2.5, "b": "blue"}


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("1\n2\nx", "line 4, column 'a': 'x' stands among numbers"),
        ("x\n2\ny", "line 3, column 'a': '2' stands among texts"),
        ("1\nnan\n2", "line 3, column 'a': expected a number, got 'nan'"),
    ],
)
def test_a_column_of_mixed_cells_is_told_with_the_first_that_stands_out(data, column, told):
    rows = [f"{cell},{label}" for cell, label in zip(column.split("\n"), "xyx", strict=True)]
    assert told in refusal(learned, data("a,label\n" + "\n".join(rows) + "\n"), TABLE, input=None)


def empty(data, directory, name):
    """Return a table whose third row has no number, in the format that the name says."""
    rows = [{"a": None if n == 2 else float(n), "b": ("red", "blue")[n % 2], "label": "xy"[n % 2]} for n in range(6)]
    if name.endswith(".parquet"):
        parquet.write_table(pa.Table.from_pylist(rows), directory / name)
        return files.read(DataSettings(path=str(directory / name)))
    if name.endswith(".csv"):
        return data(
            "a,b,label\n" + "".join(f"{'' if r['a'] is None else r['a']},{r['b']},{r['label']}\n" for r in rows)
        )
    return data(b"".join(orjson.dumps(row) + b"\n" for row in rows), name)


@pytest.mark.parametrize(
    ("name", "place"),
    [("data.csv", "data.csv, line 4"), ("a.jsonl", "a.jsonl, line 3"), ("a.parquet", "a.parquet, row 3")],
)
def test_an_empty_cell_of_a_table_is_told_with_its_place_and_what_it_says_to_do_is_taken(data, tmp_path, name, place):
    file = empty(data, tmp_path, name)
    told = refusal(learned, file, TABLE, input=None)
    assert f"{place}, column 'a': the cell is empty" in told
    said = told.split("'model.pipeline.columns=")[1].removesuffix("'")
    assert said == "{a: {type: number, missing: fill}, b: category}"
    columns = {"columns": yaml.safe_load(said)}
    found = learned(file, attrs.evolve(TABLE, pipeline=Part("tabular", columns)), input=None)
    assert [row["a"] for row in found.inputs] == [0.0, 1.0, None, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("kind", ["category", "truth"])
def test_an_empty_cell_is_refused_in_columns_of_any_type(data, kind):
    cells = {"category": ("red", "blue"), "truth": ("true", "false")}[kind]
    content = f"a,label\n{cells[0]},x\n{cells[1]},y\n,x\n"
    assert "line 4, column 'a': the cell is empty: fill it in" in refusal(learned, data(content), TABLE, input=None)


def test_of_many_columns_the_one_with_an_empty_cell_is_named_alone(data):
    names = [f"c{number}" for number in range(20)]
    rows = [",".join(["1"] * 20 + [label]) for label in "xyx"] + [",".join(["1"] * 7 + [""] + ["1"] * 12 + ["y"])]
    told = refusal(learned, data("\n".join([",".join([*names, "label"]), *rows]) + "\n"), TABLE, input=None)
    assert "line 5, column 'c7'" in told
    assert told.endswith("columns={c7: {type: number, missing: fill}}', and there each other column with its type")


@pytest.mark.parametrize("cell", ["", "much", "nan", "inf"])
def test_a_target_that_is_no_number_is_told_with_its_line(data, cell):
    content = f"a,label\n1,2.5\n2,{cell}\n"
    assert "line 3, column 'label': expected a number" in refusal(learned, data(content), NUMBERS, input=None)


def test_spans_are_looked_at_one_by_one(data):
    good = '{"text":"Ada sang","label":[{"start":0,"end":3,"label":"NAME"}]}\n'
    assert learned(data(good, "a.jsonl"), SPANS).spec.labels == ("O", "NAME")
    bad = '{"text":"Ada sang","label":[{"start":3,"end":0,"label":"NAME"}]}\n'
    assert "line 2, column 'label': expected start < end" in refusal(learned, data(good + bad, "a.jsonl"), SPANS)


def parts(file, found, seed=0, **settings):
    return split(file, DataSettings(path=file.path, split=SplitSettings(**settings)), found, seed)


def test_a_split_has_each_row_once_and_each_class_in_each_part_and_is_the_same_under_the_same_seed(data):
    file = data(texts("aab" * 30))
    found = learned(file)
    drawn = parts(file, found, validation=0.2, test=0.2)
    assert sorted([*drawn.train, *drawn.validation, *drawn.test]) == list(range(90))
    assert [len(drawn.train), len(drawn.validation), len(drawn.test)] == [54, 18, 18]
    assert [sum(found.targets[row] == "b" for row in part) for part in (drawn.validation, drawn.test)] == [6, 6]
    assert drawn == parts(file, found, validation=0.2, test=0.2)
    assert drawn != parts(file, found, seed=1, validation=0.2, test=0.2)


def test_a_class_that_is_there_once_is_told_with_what_to_do(data):
    file = data(texts("a" * 9 + "b" * 9 + "c"))
    told = refusal(parts, file, learned(file), validation=0.2, test=0.2)
    assert "line 20, column 'label': the class 'c' is there once" in told
    assert "data.split.stratified=false" in told


@pytest.mark.parametrize("seed", range(9))
def test_and_what_it_is_told_to_do_trains_on_that_class_under_any_seed(data, seed):
    file = data(texts("a" * 9 + "b" * 9 + "c" + "dd"))
    drawn = parts(file, learned(file), seed, validation=0.2, test=0.2, stratified=False)
    assert sorted([*drawn.train, *drawn.validation, *drawn.test]) == list(range(21))
    assert [len(drawn.validation), len(drawn.test)] == [4, 4]
    assert 18 in drawn.train
    assert {19, 20} & {*drawn.train}


def test_classes_that_leave_too_few_rows_to_draw_from_are_told(data):
    file = data(texts("aaaabcdefg"))
    told = refusal(parts, file, learned(file), validation=0.2, test=0.2, stratified=False)
    assert "of 10 rows 6 must be trained on" in told


def test_parts_that_are_too_small_are_told(data):
    file = data(texts("ab" * 10))
    assert "leave none for training" in refusal(parts, file, learned(file), validation=0.5, test=0.5)
    assert "is none" in refusal(parts, file, learned(file), validation=0.01, test=0.0)
    assert "cannot hold each of 2 classes" in refusal(parts, file, learned(file), validation=0.05, test=0.2)


def test_a_column_may_say_the_parts(tmp_path):
    rows = [("t", "ab"[n % 2], ("train", "train", "validation", "test")[n // 2 % 4]) for n in range(16)]
    path = write_csv(tmp_path / "a.csv", ("text", "label", "part"), rows)
    file = files.read(DataSettings(path=str(path)))
    said = parts(file, learned(file), column="part")
    assert (said.train[:4], said.validation, said.test) == ((0, 1, 2, 3), (4, 5, 12, 13), (6, 7, 14, 15))
    write_csv(path, ("text", "label", "part"), [*rows, ("t", "a", "dev")])
    file = files.read(DataSettings(path=str(path)))
    assert "expected train, validation or test, got 'dev'" in refusal(parts, file, learned(file), column="part")
