"""4 bits on a GPU: where they can be had, what to do where not, and the library that is asked for them."""

from __future__ import annotations

import pytest
import torch

from mlzoo.errors import ModelLoadFailed
from mlzoo.inference import gpu_int4
from mlzoo.inference.linears import GROUP

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("device", "says"), [
    ((None, torch.bfloat16, "0.18"), "for processors and for CUDA"),
    (((7, 5), torch.bfloat16, "0.18"), "need compute capability 8.0, and it has 7.5"),
    (((9, 0), torch.float16, "0.18"), "in bfloat16, not in float16; set dtype"),
    (((9, 0), torch.bfloat16, None), "pip install 'mlzoo[cuda]'"),
])  # fmt: skip
def test_where_there_are_no_4_bits_it_is_said_what_to_do(device, says):
    assert says in gpu_int4.objection(*device)


def test_a_gpu_with_the_kernel_and_the_library_has_them():
    assert gpu_int4.objection((8, 0), torch.bfloat16, "0.18") is None


def test_a_model_that_asks_for_4_bits_where_there_are_none_is_not_loaded():
    with pytest.raises(ModelLoadFailed, match=r"cannot be had on mps: .*, or set quantization to none") as caught:
        gpu_int4.expect("mine", torch.device("mps"), torch.float16)
    assert caught.value.data == {"model": "mine", "reason": "load"}


def test_a_library_that_is_not_installed_has_no_version(monkeypatch):
    def missing(name):
        raise gpu_int4.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(gpu_int4.metadata, "version", missing)
    assert gpu_int4.library() is None


@torch.inference_mode()
def test_the_library_multiplies_with_what_it_packed_and_leaves_the_weights_alone():
    """In 8 bits, which it has for processors as well: the way there is the same."""
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed: extra cuda")
    weight = torch.randn(48, 2 * GROUP, generator=torch.Generator().manual_seed(0)).bfloat16()
    rows = torch.randn(3, 2 * GROUP, generator=torch.Generator().manual_seed(1)).bfloat16()
    before = weight.clone()
    product = gpu_int4.product(weight, GROUP, quantization.Int8WeightOnlyConfig(set_inductor_config=False))
    expected, seen = rows.float() @ weight.float().T, product(rows).float()
    assert torch.equal(weight, before)
    assert type(product.weight) is not torch.nn.Parameter
    assert 0 < float((seen - expected).norm() / expected.norm()) < 0.02


def test_the_kernel_of_4_bits_is_the_library_s_business_to_refuse():
    pytest.importorskip("torchao", reason="torchao is not installed: extra cuda")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU: test_cuda.py runs the kernel")
    with pytest.raises((AssertionError, RuntimeError)):
        gpu_int4.product(torch.ones(16, GROUP, dtype=torch.bfloat16), GROUP)
