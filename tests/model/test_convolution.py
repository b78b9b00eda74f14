"""Formulations that are faster than the plain one, and the same: Winograd's convolution, padding, upsampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rgcluster.model.kernels.convolution import conv3x3, convolutions, use_convolutions, winograd_conv3x3
from rgcluster.model.kernels.resampling import bilinear_slices, blur, reflect_slices


@pytest.fixture(autouse=True)
def _choice() -> Iterator[None]:
    with convolutions("auto"):
        yield


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, padding: str) -> Tensor:
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect" if padding == "reflect" else "constant")
    return F.conv2d(padded, weight, bias)


@settings(max_examples=25)
@given(
    sizes=st.tuples(
        st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)
    ),
    padding=st.sampled_from(["zeros", "reflect"]),
    biased=st.booleans(),
    last=st.booleans(),
)
def test_winograds_convolution_is_the_convolution(
    sizes: tuple[int, int, int, int, int], padding: str, biased: bool, last: bool
) -> None:
    """Values and all gradients, against the direct sum in double precision."""
    batch, inputs, outputs, rows, columns = sizes
    generator = torch.Generator().manual_seed(sum(sizes))
    x = torch.randn(batch, inputs, 4 * rows, 4 * columns, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator)
    bias = torch.randn(outputs, generator=generator) if biased else None
    leaves = [value.requires_grad_() for value in (x, weight, bias) if value is not None]
    exact = [value.detach().double().requires_grad_() for value in leaves]
    use_convolutions("winograd")
    found = conv3x3(x, weight, bias, padding)
    expected = plain(exact[0], exact[1], exact[2] if biased else None, padding)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    gradient = torch.randn(found.shape, generator=generator)
    for a, b in zip(
        torch.autograd.grad(found, leaves, gradient),
        torch.autograd.grad(expected, exact, gradient.double()),
        strict=True,
    ):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3)


def test_its_error_is_small_at_the_papers_size() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 256, 34, 34, generator=generator)
    weight = torch.randn(256, 256, 3, 3, generator=generator) / 48
    exact = F.conv2d(x.double(), weight.double())
    error = (winograd_conv3x3(x, weight, None) - exact).abs()
    # Not held against the direct sum: its own error is one with AVX2 and an eighth of that with AVX-512.
    assert exact.std() > 0.9
    assert error.max() < 1e-4 and error.mean() < 2e-6


class Used(Exception):
    """Winograd's convolution was chosen."""


@pytest.mark.parametrize(
    ("channels", "size", "kind", "dtype", "cpu", "used"),
    [
        (128, 8, "auto", torch.float32, "AVX2", True),
        (128, 8, "auto", torch.float32, "AVX512", False),
        (64, 8, "auto", torch.float32, "AVX2", False),
        (128, 8, "direct", torch.float32, "AVX2", False),
        (64, 8, "winograd", torch.float32, "AVX512", True),
        (128, 10, "winograd", torch.float32, "AVX2", False),
        (128, 8, "winograd", torch.float64, "AVX2", False),
    ],
)
def test_where_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
    channels: int,
    size: int,
    kind: Any,
    dtype: torch.dtype,
    cpu: str,
    used: bool,
) -> None:
    def refuse(*_: Any) -> None:
        raise Used

    monkeypatch.setattr("rgcluster.model.kernels.convolution.winograd_conv3x3", refuse)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: cpu)
    use_convolutions(kind)
    x, weight = (
        torch.zeros(1, channels, size, size, dtype=dtype),
        torch.zeros(channels, channels, 3, 3, dtype=dtype),
    )
    if used:
        with pytest.raises(Used):
            conv3x3(x, weight, None)
        with torch.autocast("cpu", torch.bfloat16):
            conv3x3(x, weight, None)
    else:
        conv3x3(x, weight, None)


# --- padding and upsampling ---


def reflect(x: Tensor) -> Tensor:
    return F.pad(x, (3,) * 4, mode="reflect")


def bilinear(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def binomial(x: Tensor) -> Tensor:
    line = torch.tensor([1, 2, 1], dtype=x.dtype) / 4
    square = torch.outer(line, line).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), square, groups=x.shape[1])


PAIRS = [(lambda x: reflect_slices(x, 3), reflect), (bilinear_slices, bilinear)]


@pytest.mark.parametrize(("ours", "native"), [*PAIRS, (blur, binomial)])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 2, 4, 4), (1, 1, 16, 8)])
def test_results_and_gradients_are_the_native_ones(
    ours: Callable[[Tensor], Tensor], native: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    found, expected = ours(x), native(x)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    (a,), (b,) = torch.autograd.grad(found, x, gradient), torch.autograd.grad(expected, x, gradient)
    torch.testing.assert_close(a, b)


class Recorder(TorchDispatchMode):
    """The names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


SCATTERS = ("scatter", "index_put", "index_add", "pad2d_backward", "upsample")


@pytest.mark.parametrize(("ours", "native"), PAIRS)
def test_their_backward_scatters_nothing(
    ours: Callable[[Tensor], Tensor], native: Callable[[Tensor], Tensor]
) -> None:
    scatters = {}
    for name, function in (("ours", ours), ("native", native)):
        x = torch.randn(1, 2, 8, 8, requires_grad=True)
        made = function(x).sum()
        with Recorder() as recorder:
            made.backward()
        scatters[name] = [op for op in recorder.names if any(word in op for word in SCATTERS)]
    assert not scatters["ours"] and scatters["native"]
