"""Segmentation heads on token sets, against loops written by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from sct.errors import UserError
from sct.models.heads import ATMHead, FCNHead, grade
from sct.models.tokens import TokenOutput, Tokens

B, N, C, Q = 2, 5, 12, 3


def whole(dtype=torch.float64, *, count=N):
    torch.manual_seed(0)
    return Tokens(torch.randn(B, count, C, dtype=dtype), torch.arange(count).expand(B, -1))


def noisy(head):
    """A head in float64 and evaluation mode, of which no parameter is zero or one."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in head.parameters():
            p.add_(torch.randn_like(p), alpha=0.2)
    return head.double().eval()


def atm_by_hand(head, x, *, num_heads):
    """One image x (n, C): masks (n, Q) and classes (Q, 2), head by head and token by token."""
    d = head.classify.in_features
    D = d // num_heads
    memory = [head.project[1](head.project[0](token)) for token in x]
    queries = list(head.class_tokens.weight)
    parts = [slice(h * D, (h + 1) * D) for h in range(num_heads)]

    def attend(query, keys, values):
        context = []
        for part in parts:
            logits = torch.stack([query[part] @ key[part] / math.sqrt(D) for key in keys])
            context.append(sum(w * value[part] for w, value in zip(logits.softmax(0), values, strict=True)))
        return torch.cat(context)

    for layer in head.layers:
        q, k, v = zip(*(layer.exchange.qkv(query).split(d) for query in queries), strict=True)
        queries = [layer.norms[0](query + layer.exchange.proj(attend(q[i], k, v))) for i, query in enumerate(queries)]
        asked = [layer.ask(query) for query in queries]
        keys, values = zip(*(layer.answer(token).split(d) for token in memory), strict=True)
        queries = [
            layer.norms[1](query + layer.merge(attend(asked[i], keys, values))) for i, query in enumerate(queries)
        ]
        first, second = layer.feed[0], layer.feed[2]
        queries = [layer.norms[2](query + second(first(query).clamp_min(0))) for query in queries]
    masks = [
        [sum(asked[c][part] @ key[part] / math.sqrt(D) for part in parts) / num_heads for c in range(Q)] for key in keys
    ]
    return torch.stack([torch.stack(row) for row in masks]), torch.stack([head.classify(query) for query in queries])


@torch.no_grad()
def test_atm_against_loops():
    head, tokens = noisy(ATMHead(C, num_classes=Q, num_heads=2)), whole()
    said = head(tokens)
    assert said.masks.shape == (B, N, Q)
    assert said.classes.shape == (B, Q, 2)
    for b in range(B):
        masks, classes = atm_by_hand(head, tokens.x[b], num_heads=2)
        torch.testing.assert_close(said.masks[b], masks)
        torch.testing.assert_close(said.classes[b], classes)


def test_atm_has_the_size_of_the_paper():
    with torch.device("meta"):
        head = ATMHead(768, num_classes=150)
    assert head.class_tokens.weight.shape == (150, 384)
    assert [layer.num_heads for layer in head.layers] == [6, 6, 6]
    assert head.layers[0].feed[0].out_features == 4 * 384


@pytest.mark.parametrize(
    "settings", [{"width": 10, "num_heads": 4}, {"num_heads": 5}, {"num_layers": 0}], ids=["width", "half", "layers"]
)
def test_atm_that_is_not_possible(settings):
    with pytest.raises(UserError, match="ATM head"):
        ATMHead(C, num_classes=Q, **settings)


@torch.no_grad()
def test_fcn_against_loops():
    head, tokens = noisy(FCNHead(C, num_classes=Q, hidden=8)), whole()
    head.norm.running_mean.normal_()
    head.norm.running_var.uniform_(0.5, 2)
    said = head(tokens)
    assert said.classes is None
    for b in range(B):
        for i in range(N):
            x = head.embed.weight @ tokens.x[b, i]
            x = (x - head.norm.running_mean) / (head.norm.running_var + head.norm.eps).sqrt()
            x = (x * head.norm.weight + head.norm.bias).clamp_min(0)
            torch.testing.assert_close(said.masks[b, i], head.classify.weight @ x + head.classify.bias)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_fcn_trains_on_sets_of_any_size(norm):
    for count in (0, 1, 2, 7):
        torch.manual_seed(0)
        head = FCNHead(C, num_classes=Q, hidden=8, norm=norm).train()
        tokens = Tokens(torch.randn(1, count, C), torch.arange(count).unsqueeze(0), lengths=(count, 0))
        masks = head(tokens).masks
        assert masks.shape == (1, count, Q)
        assert masks.isfinite().all()
        masks.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("make", [ATMHead, FCNHead])
@torch.no_grad()
def test_a_packed_image_gets_what_it_gets_alone(make):
    head, tokens = noisy(make(C, num_classes=Q)), whole()
    keep = torch.tensor([[True, False, True, True, False], [False] * 5])
    packed = head(tokens.select(keep))
    assert packed.masks.shape == (1, 3, Q)
    alone = head(Tokens(tokens.x[:1, [0, 2, 3]], tokens.index[:1, [0, 2, 3]]))
    torch.testing.assert_close(packed.masks, alone.masks, rtol=0, atol=1e-12)
    if packed.classes is not None:
        torch.testing.assert_close(packed.classes[:1], alone.classes, rtol=0, atol=1e-12)
        # an image without a token still says which classes it takes for present
        assert packed.classes[1].isfinite().all()


def test_of_regions_the_least_sure_is_graded():
    """Last region with p > 0.5, the number of regions where there is none."""
    masks = torch.tensor([[[3.0, -2, -4], [-1, -2, -3], [4, 5, 0.5], [0, -9, -9], [2, -1.5, 6]]])
    confidence, predicted = grade(TokenOutput(whole(), masks), overlapping=True)
    least = torch.tensor([[2.0, 1, 0.5, 0, 1.5]]).sigmoid()
    torch.testing.assert_close(confidence, least)
    p = masks.sigmoid()
    torch.testing.assert_close(confidence, torch.maximum(p, 1 - p).amin(dim=-1))
    assert predicted.tolist() == [[0, 3, 2, 3, 2]]


def test_grade_is_the_probability_of_the_likeliest_class():
    torch.manual_seed(0)
    keep = torch.tensor([[True, False, True, True, False], [False, True, False, False, True]])
    for tokens in (whole(torch.float32), whole(torch.float32).select(keep)):
        masks, classes = torch.randn(*tokens.index.shape, Q, requires_grad=True), torch.randn(B, Q, 2)
        confidence, predicted = grade(TokenOutput(tokens, masks))
        assert not confidence.requires_grad
        torch.testing.assert_close(confidence, F.softmax(masks, dim=-1).amax(dim=-1))
        assert torch.equal(predicted, masks.argmax(dim=-1))
        confidence, predicted = grade(TokenOutput(tokens, masks, classes))
        for row, column in torch.cartesian_prod(*map(torch.arange, tokens.index.shape)).tolist():
            image = tokens.images()[row, column]
            odds = [classes[image, c].exp() for c in range(Q)]
            scores = [odds[c][0] / odds[c].sum() / (1 + (-masks[row, column, c]).exp()) for c in range(Q)]
            assert confidence[row, column].item() == pytest.approx(max(scores).item(), rel=1e-5)
            assert predicted[row, column].item() == scores.index(max(scores))
