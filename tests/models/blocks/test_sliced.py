"""Convolutions of volumes with a gradient of their own: the numbers of torch's, in less memory."""

import pytest
import torch
import torch.nn.functional as F

from sct.models.blocks.sliced import SAME_CONV, SlicedConv3d, same_conv, weight_gradient


def sample(size, *, kernel, batch=1, dtype=torch.float64):
    torch.manual_seed(0)
    x = torch.randn(batch, 3, *size, dtype=dtype).to(memory_format=torch.channels_last_3d)
    weight, bias = torch.randn(4, 3, *kernel, dtype=dtype), torch.randn(4, dtype=dtype)
    return [part.requires_grad_() for part in (x, weight, bias)]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kernel", [(1, 1, 1), (1, 3, 3), (3, 1, 1), (3, 3, 3), (5, 3, 1)])
@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        ((5, 4, 6), torch.float64),
        ((5, 4, 6), torch.bfloat16),
        ((1, 3, 2), torch.float64),  # in bf16 oneDNN's own convolution of a single slice is wrong
        ((2, 1, 1), torch.float64),
        ((2, 1, 1), torch.bfloat16),
    ],
)
def test_result_and_gradients_are_torchs(size, kernel, batch, dtype):
    inputs = sample(size, kernel=kernel, batch=batch, dtype=dtype)
    exact = [part.detach().double().requires_grad_() for part in inputs]
    y, want = same_conv(*inputs), F.conv3d(*exact, padding=[edge // 2 for edge in kernel])
    assert type(y.grad_fn).__name__ != "ConvolutionBackward0"
    grad = torch.randn_like(want)
    found = torch.autograd.grad(y, inputs, grad.to(dtype))
    close = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 3e-2, "atol": 0.15}
    torch.testing.assert_close(y.double(), want, **close)
    for own, other in zip(found, torch.autograd.grad(want, exact, grad.to(dtype).double()), strict=True):
        assert own.dtype == dtype
        torch.testing.assert_close(own.double(), other, **close)


def test_under_autocast_weights_keep_their_type():
    inputs = sample((4, 4, 4), kernel=(3, 3, 3), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = same_conv(*inputs)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert all(part.grad.dtype == torch.float32 for part in inputs)


def test_only_what_is_asked_for_is_computed(monkeypatch):
    x, weight, _ = sample((4, 4, 4), kernel=(1, 3, 3))
    asked = []
    monkeypatch.setattr(
        "sct.models.blocks.sliced.weight_gradient", lambda *given: asked.append(1) or weight_gradient(*given)
    )
    want_x, want_weight = torch.autograd.grad(F.conv3d(x, weight, padding=(0, 1, 1)).square().sum(), (x, weight))
    image, frozen = x.detach(), weight.detach()
    same_conv(image, weight).square().sum().backward()
    torch.testing.assert_close(weight.grad, want_weight)
    assert image.grad is None
    with torch.no_grad():
        assert same_conv(x, weight).grad_fn is None
    same_conv(x, frozen).square().sum().backward()
    torch.testing.assert_close(x.grad, want_x)
    assert len(asked) == 1


def test_slices_are_a_batch_without_a_copy(monkeypatch):
    """Where one image is channels-last, as the decoders keep it; else there would be nothing gained."""
    x, weight, _ = sample((4, 5, 6), kernel=(3, 1, 1))
    seen = []
    real = torch.ops.aten.convolution_backward

    def watched(grad, given, *rest):
        seen.append(given)
        return real(grad, given, *rest)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", watched)
    weight_gradient(torch.randn(1, 4, 4, 5, 6, dtype=x.dtype), x, weight)
    assert len(seen) == 3
    for part in seen:
        assert part.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        assert part.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_pointwise_map_is_a_convolution(dims):
    torch.manual_seed(0)
    layer, x = SAME_CONV[dims](3, 5, kernel_size=1), torch.randn(2, 3, *[4] * dims)
    want = (F.conv2d if dims == 2 else F.conv3d)(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), want)
    torch.testing.assert_close(layer.eval()(x), want)
    trained = layer.train()(x).grad_fn
    assert (SlicedConv3d.__name__ in str(trained.next_functions)) == (dims == 3)
