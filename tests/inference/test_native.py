"""Kernels of our own: what they compute, that no row's bits depend on others, and what happens where there are none."""

from __future__ import annotations

import hashlib
import math
import os
import stat

import pytest
import torch
from tiny_models import load
from torch.nn import functional

from mlzoo import graph_notes
from mlzoo.config.loading import cache_directory
from mlzoo.inference import linears, native, native_options
from mlzoo.inference.loader import load_chat
from mlzoo.inference.threads import using

pytestmark = pytest.mark.torch

CONTEXT = 96
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def kernels():
    lacking = native.offer(cache_directory(None, os.environ))
    if lacking:
        pytest.skip(f"no kernels of our own: {lacking}")


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 16, 37])
def test_products_are_those_of_the_weights_on_their_grid(bits, rows):
    steps = torch.randint(0, 1 << bits, (48, 96), generator=torch.Generator().manual_seed(1))
    centred = (steps - (1 << (bits - 1))).bfloat16()
    centred[:, 0::32], centred[:, 1::32] = -(1 << (bits - 1)) + bits // 8, (1 << (bits - 1)) - 1
    x = numbers(rows, 96)
    seen = linears.w4a16(centred, bits)(x).float()
    expected = x.float() @ centred.float().T
    assert float((seen - expected).norm() / expected.norm()) < 0.003  # the rounding of what comes out


def pseudo(*shape, seed=0):
    """Numbers that are the same on every machine, in every version: 16 bits of a congruential generator (Lehmer)."""
    state, made = 48271 * (seed + 1), []
    for _ in range(math.prod(shape)):
        state = state * 48271 % (2**31 - 1)
        made.append((state >> 8) % 4001 - 2000)
    return torch.tensor(made, dtype=torch.float32).view(shape) / 512


def digest_of(numbers):
    return hashlib.sha256(numbers.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("bits", "dtype", "expected"),
    [
        (4, torch.bfloat16, "b6758006a990f8d0"),
        (8, torch.bfloat16, "19018932652b7c25"),
        (4, torch.float32, "7a759f16b2194806"),
        (8, torch.float32, "62912156230666e4"),
    ],
)
def test_products_have_the_same_bits_on_every_processor(bits, dtype, expected):
    product, x = linears.w4a16(pseudo(48, 288).bfloat16(), bits), pseudo(37, 288, seed=1).to(dtype)
    assert digest_of(torch.cat([product(x[:rows]) for rows in (1, 2, 3, 5, 8, 16, 37)])) == expected


@pytest.mark.parametrize(
    ("heads", "key_heads", "dim", "expected"),
    [(9, 3, 64, "6122ab034ec6ba38"), (4, 4, 16, "4674aa776ac919ec"), (7, 1, 80, "66050e9ed7bdb031")],
)
def test_attention_has_the_same_bits_on_every_processor(heads, key_heads, dim, expected):
    keys, values = (pseudo(3 * 60, key_heads * dim, seed=seed).bfloat16() for seed in (2, 3))
    query, seen = pseudo(6, heads, dim, seed=4).bfloat16(), pseudo(6, 57, seed=5) > -2
    seen[:, 0] = True
    lines = torch.tensor([0, 0, 60, 120, 120, 120])
    outs = [
        torch.ops.mlzoo.slot_attention(query, keys, values, lines, seen[:, :extent].to(torch.uint8), dim**-0.5)
        for extent in (2, 17, 57)
    ]
    assert digest_of(torch.cat(outs)) == expected


def test_a_number_that_is_far_greater_than_its_neighbours_does_not_drown_them():
    weight = torch.randint(-8, 8, (16, 32), generator=torch.Generator().manual_seed(3)).bfloat16()
    weight[:, 0], weight[:, 1], weight[:, 5] = -8, 7, 0
    product, x = linears.w4a16(weight, 4), numbers(1, 32)
    expected = x.float() @ weight.float().T
    x[0, 5] = 1000
    assert float((product(x).float() - expected).norm() / expected.norm()) < 0.02  # of 8 bits, 4 would be left


@pytest.mark.parametrize("bits", [4, 8])
def test_wide_rows_are_products_of_what_they_are_and_leave_as_wide(bits):
    steps = torch.randint(bits // 8, 1 << bits, (48, 96), generator=torch.Generator().manual_seed(1))
    centred = (steps - (1 << (bits - 1))).bfloat16()
    centred[:, 0::32], centred[:, 1::32] = -(1 << (bits - 1)) + bits // 8, (1 << (bits - 1)) - 1
    x = torch.randn(37, 96, generator=torch.Generator().manual_seed(2))
    product = linears.w4a16(centred, bits)
    seen, expected = product(x), x @ centred.float().T
    assert seen.dtype == torch.float32
    assert float((seen - expected).norm() / expected.norm()) < 5e-5  # bfloat16 is forty times as far
    for height in (1, 3, 8, 16):
        assert torch.equal(product(x[5 : 5 + height]), seen[5 : 5 + height])


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_has_the_same_bits_in_every_company_and_from_all_numbers_of_threads(bits):
    product = linears.w4a16(numbers(64, 576), bits)
    x = numbers(131, 576, seed=2)
    whole = product(x)
    for height in (1, 2, 3, 5, 8, 13, 16, 64):
        assert torch.equal(product(x[3 : 3 + height]), whole[3 : 3 + height])
    with using(1):
        assert torch.equal(product(x), whole)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_stays_in_its_row(broken):
    product = linears.w4a16(numbers(32, 64), 4)
    x = numbers(3, 64)
    expected = product(x)
    x[1, 40] = broken
    seen = product(x)
    assert seen[1].isnan().all()
    assert torch.equal(seen[[0, 2]], expected[[0, 2]])


def test_nothing_and_next_to_nothing_make_nothing():
    product = linears.w4a16(numbers(32, 64), 4)
    assert not product(torch.zeros(2, 64, dtype=torch.bfloat16)).any()
    assert product(torch.full((2, 64), 1e-35, dtype=torch.bfloat16)).isfinite().all()
    assert not linears.w4a16(torch.zeros(32, 64, dtype=torch.bfloat16), 8)(numbers(2, 64)).any()


def scene(rows, heads, key_heads, dim, extent):
    query, keys, values = (
        numbers(*shape, seed=seed)
        for seed, shape in enumerate(
            ((rows, heads, dim), (rows * CONTEXT, key_heads * dim), (rows * CONTEXT, key_heads * dim))
        )
    )
    first_lines = torch.arange(rows).flip(0) * CONTEXT
    seen = torch.rand(rows, extent, generator=torch.Generator().manual_seed(9)) < 0.7  # any rule a model may have
    seen[:, 0] = True
    return query, keys, values, first_lines, seen


def attended(query, keys, values, first_lines, seen):
    return torch.ops.mlzoo.slot_attention(query, keys, values, first_lines, seen, 0.2)


@pytest.mark.parametrize(("heads", "key_heads", "dim"), [(9, 3, 64), (4, 4, 16), (8, 1, 128), (6, 3, 80)])
@pytest.mark.parametrize("extent", [2, 16, 57, 96])
def test_attention_is_that_of_the_library_over_what_each_row_sees(heads, key_heads, dim, extent):
    query, keys, values, first_lines, seen = scene(3, heads, key_heads, dim, extent)
    found = attended(query, keys, values, first_lines, seen).view(3, heads, dim)
    lines = first_lines[:, None] + torch.arange(extent)
    key, value = (
        buffer[lines].view(3, extent, key_heads, dim).transpose(1, 2).repeat_interleave(heads // key_heads, 1).float()
        for buffer in (keys, values)
    )
    mask = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))[:, None, None]
    expected = functional.scaled_dot_product_attention(query.float()[:, :, None], key, value, attn_mask=mask, scale=0.2)
    assert torch.allclose(found.float(), expected[:, :, 0], atol=2e-2, rtol=1e-2)


def test_wide_queries_attend_as_narrow_ones_and_what_they_get_is_wide():
    query, keys, values, first_lines, seen = scene(3, 9, 3, 64, 57)
    found = attended(query.float(), keys, values, first_lines, seen)
    assert found.dtype == torch.float32
    assert torch.equal(found.bfloat16(), attended(query, keys, values, first_lines, seen))


def test_what_a_row_does_not_see_need_not_be_a_number():
    query, keys, values, first_lines, seen = scene(2, 4, 2, 32, 40)
    expected = attended(query, keys, values, first_lines, seen)
    hidden = first_lines[0] + int((~seen[0]).nonzero()[0])
    keys[hidden], values[hidden] = float("nan"), float("inf")
    assert torch.equal(attended(query, keys, values, first_lines, seen), expected)


def test_a_broken_query_breaks_its_own_row_alone():
    query, keys, values, first_lines, seen = scene(3, 4, 2, 32, 40)
    expected = attended(query, keys, values, first_lines, seen)
    query[1] = float("nan")
    broken = attended(query, keys, values, first_lines, seen)
    assert broken[1].isnan().all()
    assert torch.equal(broken[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize(("heads", "dim"), [(4, 8), (4, 144), (18, 32)])
def test_heads_that_attention_is_not_written_for_are_refused_before_any_memory_is_touched(heads, dim):
    query, keys, values, first_lines, seen = scene(2, heads, 2, dim, 16)
    with pytest.raises(RuntimeError, match=f"no {heads} heads of {dim}"):
        attended(query, keys, values, first_lines, seen)


def test_attention_has_the_same_bits_in_every_company_however_far_others_see():
    query, keys, values, first_lines, seen = scene(5, 9, 3, 64, 80)
    seen[2, 33:] = False
    whole = attended(query, keys, values, first_lines, seen)
    alone = attended(query[2:3], keys, values, first_lines[2:3], seen[2:3, :48])
    assert torch.equal(alone[0], whole[2])
    with using(1):
        assert torch.equal(attended(query, keys, values, first_lines, seen), whole)


@pytest.fixture
def another_process(monkeypatch):
    """Have it look for the kernels as a process does that has none yet."""
    monkeypatch.setattr(native._State, "library", None)
    monkeypatch.setattr(native._State, "asked", None)


def compiler_that(tmp_path, monkeypatch, does):
    """Have a script be the compiler."""
    script = tmp_path / "compiler"
    script.write_text(f"#!/bin/sh\n{does}\n")
    script.chmod(stat.S_IRWXU)
    monkeypatch.setenv("CXX", str(script))


def forget_the_library():
    native._State.library = native._State.asked = None


@pytest.mark.usefixtures("another_process")
def test_a_compiler_that_fails_leaves_torchs_kernels_says_why_and_is_asked_three_times(tmp_path, monkeypatch):
    compiler_that(tmp_path, monkeypatch, "echo 'no such header' >&2; exit 1")
    for _ in range(graph_notes.TRIES):
        forget_the_library()
        assert native.offer(tmp_path / "cache") == "the C++ compiler failed (no such header)"
    assert not native.is_there()
    (note,) = (tmp_path / "cache").iterdir()
    compiler_that(tmp_path, monkeypatch, "touch asked")
    forget_the_library()
    why = native.offer(tmp_path / "cache")
    assert why == f"the C++ compiler failed (no such header) (remove {note} to have it asked again)"
    with pytest.raises(RuntimeError, match="no kernel"):
        linears.w4a16(numbers(32, 64), 4)
    note.unlink()
    monkeypatch.delenv("CXX")
    forget_the_library()
    assert native.offer(tmp_path / "cache") == ""


@pytest.mark.usefixtures("another_process")
def test_without_a_compiler_what_was_compiled_earlier_is_taken_up(tmp_path, monkeypatch):
    assert native.offer(tmp_path) == ""
    monkeypatch.setenv("CXX", "no-such-compiler")
    forget_the_library()
    assert native.offer(tmp_path) == ""
    forget_the_library()
    assert native.offer(tmp_path / "elsewhere") == "this machine has no C++ compiler"


@pytest.mark.usefixtures("another_process")
def test_a_compiler_that_hangs_is_ended(tmp_path, monkeypatch):
    compiler_that(tmp_path, monkeypatch, "exec tail -f /dev/null")
    monkeypatch.setattr(native_options, "TIMEOUT_S", 0.2)
    assert native.offer(tmp_path / "cache") == "the C++ compiler took too long"


@pytest.mark.usefixtures("another_process")
@pytest.mark.parametrize("left", [0, 4096, 20_000])
def test_a_library_that_is_cut_is_never_loaded_but_made_anew(tmp_path, monkeypatch, left):
    assert native.offer(tmp_path / "whole") == ""
    (library,) = (tmp_path / "whole").glob("*.so")
    cut = tmp_path / "cut"
    cut.mkdir()
    for path in (tmp_path / "whole").iterdir():
        (cut / path.name).write_bytes(path.read_bytes()[: left if path == library else None])
    forget_the_library()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert native.offer(cut) == "this machine has no C++ compiler"
    monkeypatch.delenv("CXX")
    assert native.offer(tmp_path / "whole") == ""
    forget_the_library()
    assert native.offer(cut) == ""
    assert len((cut / library.name).read_bytes()) > left


@pytest.mark.usefixtures("another_process")
def test_a_processor_without_the_instructions_is_asked_before_any_compiler(tmp_path, monkeypatch):
    compiler_that(tmp_path, monkeypatch, "touch asked")
    monkeypatch.setattr(native, "_processor", lambda: "flags : fpu avx2 f16c")
    assert native.offer(tmp_path / "cache") == native.LACKING
    assert not (tmp_path / "cache").exists()


def test_numbers_of_another_kind_or_width_are_refused():
    product = linears.w4a16(numbers(32, 64), 4)
    for wrong in (numbers(2, 64).half(), numbers(2, 96)):
        with pytest.raises(RuntimeError, match="are not what these weights are for"):
            product(wrong)


def test_a_model_says_whether_it_has_them_and_has_none_where_compiling_is_switched_off(tiny_directory, tmp_path):
    order = load(tiny_directory, dtype="bfloat16")
    assert "kernels of our own: at hand" in load_chat(order, CPU, cache=tmp_path).why
    switched_off = load_chat(load(tiny_directory, dtype="bfloat16", compile="none"), CPU, cache=tmp_path)
    assert "kernels of our own: none, switched off" in switched_off.why
    assert not switched_off.decoder.own_attention
    assert "no compiled graphs: switched off" in switched_off.why
