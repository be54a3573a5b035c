"""Whole, masked and packed attention against each other."""

import itertools

import torch
import torch.nn.functional as F

from sct.models.blocks import attention
from sct.models.blocks.attention import (
    LONG,
    attention_by_head,
    cross_attention,
    first_row,
    fused_attention,
    masked_attention,
    mean_products,
    packed_attention,
    policy_attention,
    suits_processor,
)

B, H, L, D = 2, 3, 7, 4
# what the guard against empty rows may change
TOLERANCE = {"rtol": 0, "atol": 1e-7}


def random_qkv(dtype=torch.float64, *, length=L):
    torch.manual_seed(0)
    return [torch.randn(B, H, length, D, dtype=dtype, requires_grad=True) for _ in range(3)]


def test_a_mask_of_ones_is_softmax():
    q, k, v = random_qkv(length=197)
    ones = torch.ones(B, 197, dtype=torch.float64)
    expected = fused_attention(q, k, v)
    torch.testing.assert_close(masked_attention(q, k, v, mask=ones), expected, **TOLERANCE)


def test_masked_rows_equal_attention_over_the_gathered_set():
    q, k, v = random_qkv(length=197)
    mask = (torch.rand(1, 197) < 0.3).double().expand(B, -1)
    kept = mask[0].nonzero().squeeze(1)
    masked = masked_attention(q, k, v, mask=mask)[:, :, kept]
    gathered = fused_attention(q[:, :, kept], k[:, :, kept], v[:, :, kept])
    torch.testing.assert_close(masked, gathered, **TOLERANCE)


def test_a_masked_token_sees_the_kept_ones_and_itself():
    q, k, v = random_qkv()
    mask = torch.tensor([[1.0, 1, 0, 1, 0, 0, 1]] * B, dtype=torch.float64)
    seen = [0, 1, 3, 4, 6]
    masked = masked_attention(q, k, v, mask=mask)[:, :, 4]
    alone = fused_attention(q[:, :, 4:5], k[:, :, seen], v[:, :, seen]).squeeze(2)
    torch.testing.assert_close(masked, alone, **TOLERANCE)


def test_the_masks_gradient_reaches_masked_tokens_and_is_exact():
    q, k, v = random_qkv()
    mask = torch.tensor([[1.0, 1, 0, 1, 0, 0, 1]] * B, dtype=torch.float64, requires_grad=True)
    masked_attention(q, k, v, mask=mask).square().sum().backward()
    assert (mask.grad != 0).all()
    small = [tensor[:1, :1, :4].detach().requires_grad_() for tensor in (q, k, v)]
    assert torch.autograd.gradcheck(policy_attention, (*small, mask[:1, :4].detach().requires_grad_()))


def test_packed_images_attend_to_themselves_alone():
    q, k, v = random_qkv(torch.float32)
    lengths = (3, 4)
    alone = [fused_attention(*(x[:1, :, part] for x in (q, k, v))) for part in (slice(0, 3), slice(3, 7))]
    found = packed_attention(*(x[:1] for x in (q, k, v)), lengths=lengths)
    assert torch.equal(found, torch.cat(alone, dim=2))


def row_of(q, k, *, lengths=None, **more):
    """`first_row` of whole queries (B, H, L, D), or of one image of packed ones."""
    starts = [0] if lengths is None else [0, *itertools.accumulate(lengths)][:-1]
    first = torch.cat([q[:, :, start : start + 1] for start in starts]) / D**0.5
    return first_row(first, k, lengths=lengths, **more)


def test_first_row_is_the_first_row():
    q, k, _ = random_qkv()
    matrix = (q @ k.transpose(-2, -1) / D**0.5).softmax(dim=-1)
    torch.testing.assert_close(row_of(q, k, mask=None), matrix[:, :, 0])
    mask = torch.tensor([[1.0, 1, 0, 1, 0, 0, 1]] * B, dtype=torch.float64)
    masked = F.normalize(matrix[:, :, 0] * mask.unsqueeze(1), p=1, dim=-1)
    torch.testing.assert_close(row_of(q, k, mask=mask), masked, **TOLERANCE)
    packed = row_of(q[:1], k[:1], mask=None, lengths=(3, 4))
    torch.testing.assert_close(packed[..., :3], row_of(q[:1, :, :3], k[:1, :, :3], mask=None))
    torch.testing.assert_close(packed[..., 3:], row_of(q[:1, :, 3:], k[:1, :, 3:], mask=None))


def test_the_masks_gradient_reaches_the_first_row():
    """A token that an earlier stage dropped would take attention from the others: its mask gets a gradient."""
    q, k, _ = random_qkv()
    mask = torch.tensor([[1.0, 1, 0, 1, 0, 0, 1]], dtype=torch.float64, requires_grad=True)
    first, keys = q[:1, :, :1].detach(), k[:1].detach()
    assert torch.autograd.gradcheck(lambda m: first_row(first, keys, mask=m, lengths=None), mask)
    first_row(first, keys, mask=mask, lengths=None)[..., 1].sum().backward()
    assert (mask.grad[0, [0, 2, 3, 4, 5, 6]] < 0).all()


def test_queries_read_the_tokens_of_their_image_alone():
    q, k, v = random_qkv()
    q = q[:, :, :2]
    lengths = (3, 0, 4)
    packed_q = torch.cat([q, q[:1]])
    context = cross_attention(packed_q, k[:1], v[:1], lengths=lengths)
    products = mean_products(packed_q, k[:1], lengths=lengths)
    assert context.shape == (3, H, 2, D)
    assert products.shape == (1, L, 2)
    for image, part in enumerate((slice(0, 3), slice(0, 0), slice(3, 7))):
        logits = packed_q[image] @ k[0, :, part].transpose(-2, -1) / D**0.5
        torch.testing.assert_close(context[image], logits.softmax(dim=-1) @ v[0, :, part])
        torch.testing.assert_close(products[0, part], logits.mean(dim=0).T)
    assert not context[1].any(), "an image without a token reads zeros"


def test_mean_products_of_whole_sets():
    q, k, v = random_qkv()
    q = q[:, :, :2]
    logits = q @ k.transpose(-2, -1) / D**0.5
    torch.testing.assert_close(mean_products(q, k, lengths=None), logits.mean(dim=1).transpose(1, 2))
    expected = logits.softmax(dim=-1) @ v
    torch.testing.assert_close(cross_attention(q, k, v, lengths=None), expected)


def test_bf16_products_by_head_are_attention(monkeypatch):
    monkeypatch.setattr(attention, "has_tiles", lambda: False)
    # more queries than are taken at once, other numbers of queries and keys, memory as the heads of one projection
    torch.manual_seed(0)
    q, k, v = (torch.randn(B, length, H, 32).bfloat16().transpose(1, 2) for length in (LONG + 89, 300, 300))
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    with torch.no_grad():
        context = fused_attention(q, k, v)
        assert torch.equal(context, attention_by_head(q, k, v))
        assert torch.equal(context[1:], fused_attention(q[1:], k[1:], v[1:])), "alone as in a batch"
    assert ((context.float() - expected).norm() / expected.norm()).item() < 0.01


def test_products_by_head_are_for_long_bf16_inference_without_tiles_alone(monkeypatch):
    monkeypatch.setattr(attention, "has_tiles", lambda: False)
    q = torch.zeros(1, 1, LONG, 8, dtype=torch.bfloat16)
    assert not suits_processor(q), "gradients"
    with torch.no_grad():
        assert suits_processor(q)
        assert not suits_processor(q[:, :, 1:])
        assert not suits_processor(q.float())
        assert not suits_processor(q.to("meta"))
        monkeypatch.setattr(attention, "has_tiles", lambda: True)
        assert not suits_processor(q)


def repeated(tensor, counts, dim=2):
    """Every key or value as often as `counts` says."""
    return tensor.repeat_interleave(torch.tensor(counts), dim=dim)


COUNTS = [1, 3, 1, 2, 1, 1, 5]


def biased():
    """Queries, keys, values, and the log of COUNTS as the keys' bias."""
    return *random_qkv(), torch.tensor(COUNTS, dtype=torch.float64).log().expand(B, -1)


def test_a_key_with_the_log_of_n_as_bias_acts_as_n_equal_keys():
    q, k, v, bias = biased()
    expected = fused_attention(q, repeated(k, COUNTS), repeated(v, COUNTS))
    assert not torch.allclose(expected, fused_attention(q, k, v))
    torch.testing.assert_close(fused_attention(q, k, v, bias=bias), expected)
    with torch.no_grad():
        torch.testing.assert_close(attention_by_head(q, k, v, bias=bias), expected)
    ones = torch.ones(B, L, dtype=torch.float64)
    torch.testing.assert_close(masked_attention(q, k, v, mask=ones, bias=bias), expected, **TOLERANCE)


def test_a_bias_in_a_packed_batch_stays_with_its_image():
    q, k, v, bias = biased()
    q, k, v, bias = (tensor[:1] for tensor in (q, k, v, bias))
    packed = packed_attention(q, k, v, lengths=(3, 4), bias=bias)
    halves = [(slice(0, 3), COUNTS[:3]), (slice(3, 7), COUNTS[3:])]
    expected = [fused_attention(q[:, :, s], repeated(k[:, :, s], c), repeated(v[:, :, s], c)) for s, c in halves]
    torch.testing.assert_close(packed, torch.cat(expected, dim=2))


def test_the_first_row_sees_the_bias():
    q, k, _, bias = biased()
    expected = row_of(q, repeated(k, COUNTS), mask=None)
    together = torch.stack([part.sum(dim=2) for part in expected.split(COUNTS, dim=2)], dim=2)
    torch.testing.assert_close(row_of(q, k, mask=None, bias=bias), together)
    alone = [row_of(q[:1, :, s], k[:1, :, s], mask=None, bias=bias[:1, s]) for s in (slice(3), slice(3, 7))]
    packed = row_of(q[:1], k[:1], mask=None, lengths=(3, 4), bias=bias[:1])
    torch.testing.assert_close(packed, torch.cat(alone, dim=2))
