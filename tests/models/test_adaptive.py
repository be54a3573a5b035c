"""APFormer's parts against hand-computed values and brute force; row pruning against the unpruned attention."""

import math

import pytest
import torch
from torch import nn

from sct.models.adaptive.attention import AdaptiveAttention
from sct.models.adaptive.dependencies import AdaptiveThreshold
from sct.models.adaptive.gate import QueryGate
from sct.models.adaptive.grpe import GRPE, offset_index
from sct.models.adaptive.ssa import SSA, row_entropy, symmetry
from sct.models.blocks.layers import Attention, Layout

GRID = (3, 4)
N = 12


def attention(*, seed: int = 0, **parts) -> AdaptiveAttention:
    torch.manual_seed(seed)
    module = AdaptiveAttention(8, num_heads=2, qkv_bias=True, grid=GRID, head_dim=6, **parts).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.eval()


def tokens(*, seed: int = 1, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, N, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def some_ask() -> torch.Tensor:
    """Five of the first image's tokens ask, nine of the second's."""
    asking = torch.zeros(2, N, dtype=torch.bool)
    asking[0, [0, 3, 4, 7, 11]] = True
    asking[1, 2:11] = True
    return asking


def all_parts(**changes):
    return {"positions": GRPE, "dependencies": AdaptiveThreshold, "ssa": SSA(), **changes}


# SSA


def test_program_form_of_ssa_on_even_and_identity_attention():
    ssa = SSA(weight=1.0, form="program")
    even = torch.full((2, 3, 16, 16), 1 / 16, dtype=torch.float64)
    assert ssa(even).item() == pytest.approx(0.28, abs=1e-9)
    identity = torch.eye(16, dtype=torch.float64).expand(2, 3, 16, 16)
    assert ssa(identity).item() == pytest.approx(0.08, abs=1e-9)


def test_paper_form_of_ssa_by_hand():
    even = torch.full((1, 1, 16, 16), 1 / 16, dtype=torch.float64)
    # symmetric; the entropy of every row is the largest there is: 0.2 * (1 - 0.9)
    assert SSA(weight=1.0)(even).item() == pytest.approx(0.02, abs=1e-12)
    identity = torch.eye(16, dtype=torch.float64).expand(1, 1, 16, 16)
    assert SSA(weight=1.0)(identity).item() == 0
    # every token looks at its right neighbour: A and its transpose have nothing in common for N > 2
    shift = torch.eye(16, dtype=torch.float64).roll(1, dims=1).expand(1, 1, 16, 16)
    assert SSA(weight=1.0)(shift).item() == pytest.approx(0.8 * (1 - 0.1), abs=1e-12)
    # A = [[3/4, 1/4], [1/2, 1/2]]: S = (9/16 + 2/8 + 1/4) / (9/16 + 1/16 + 1/4 + 1/4) = 17/18
    small = torch.tensor([[0.75, 0.25], [0.5, 0.5]], dtype=torch.float64)[None, None]
    assert symmetry(small).item() == pytest.approx(17 / 18, abs=1e-12)
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert row_entropy(small).flatten().tolist() == pytest.approx([entropy, 1.0], abs=1e-12)
    expected = 0.8 * (1 / 18 - 0.01) + 0.2 * (entropy - 0.5)
    ssa = SSA(weight=1.0, symmetry_slack=0.01, entropy_slack=0.5)
    assert ssa(small).item() == pytest.approx(expected, abs=1e-12)


def test_ssa_is_the_mean_over_heads_and_images_and_is_weighted():
    matrices = torch.rand(2, 3, 5, 5, dtype=torch.float64).softmax(dim=-1)
    alone = [SSA(weight=1.0)(matrices[i : i + 1, j : j + 1]) for i in range(2) for j in range(3)]
    assert SSA(weight=0.1)(matrices).item() == pytest.approx(0.1 * sum(alone).item() / 6, abs=1e-12)


def test_ssa_looks_at_the_products_without_positions_and_only_in_training():
    module = attention(positions=GRPE, ssa=SSA(weight=1.0)).train()
    x = tokens()
    q, k = module.project(x, "query"), module.project(x, "key")
    expected = SSA(weight=1.0)((q @ k.transpose(-2, -1) / math.sqrt(6)).softmax(dim=-1))
    assert module(x)[1].loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert module.eval()(x)[1].loss is None


# GRPE


@pytest.mark.parametrize("form", ["paper", "program"])
def test_grpe_against_a_double_loop(form):
    height, width = GRID
    grpe = GRPE(grid=GRID, num_heads=2, form=form).double()
    nn.init.normal_(grpe.position_table)
    with torch.no_grad():
        grpe.theta.copy_(torch.tensor([0.3, 0.7]))
    ours = grpe()
    for head in range(2):
        for i in range(N):
            for j in range(N):
                dy, dx = i // width - j // width, i % width - j % width
                if form == "paper":
                    # theta in patches: a share of the longest axis
                    distance, theta, scale = dy**2 + dx**2, grpe.theta[head].item() * width, 1.0
                else:
                    distance, theta, scale = (dy / height) ** 2 + (dx / width) ** 2, grpe.theta[head].item(), 0.01
                learned = grpe.position_table[head, (dy + height - 1) * (2 * width - 1) + dx + width - 1].item()
                expected = learned + scale * math.exp(-distance / (2 * theta**2))
                assert ours[head, i, j].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_grpe_of_a_volume_counts_every_offset():
    index = offset_index((2, 3, 2)).reshape(12, 12)
    assert len(index.unique()) == 3 * 5 * 3
    # first place to last: the most negative offset; and back
    assert index[0, 11] == 0
    assert index[11, 0] == 3 * 5 * 3 - 1
    assert GRPE(grid=(32, 32), num_heads=6).position_table.shape == (6, 63 * 63)


# dependencies


def test_threshold_by_hand():
    module = AdaptiveThreshold(head_dim=2).double().eval()
    with torch.no_grad():
        module.project.weight.copy_(torch.tensor([[1.0, -1.0]]))
        module.g.fill_(0.5)
    q = torch.tensor([[[[0.0, 0.0], [3.0, 0.0]]]], dtype=torch.float64)
    rows = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)[None, None]
    sigmoid = lambda value: 1 / (1 + math.exp(-value))  # noqa: E731
    levels = [sigmoid(0.0) * sigmoid(0.5), sigmoid(3.0) * sigmoid(0.5)]
    thresholds = [0.1 + 0.3 * level for level in levels]
    # 0.1 + 0.3 * 0.31 = 0.193 and 0.1 + 0.3 * 0.59 = 0.278
    assert [round(value, 3) for value in thresholds] == [0.193, 0.278]
    pruned, share = module(q, rows)
    expected = torch.tensor([[0, 0.2, 0.3, 0.4], [0, 0, 0.3, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(pruned[0, 0], expected / expected.sum(dim=1, keepdim=True))
    assert share.tolist() == pytest.approx([3 / 8])
    again = AdaptiveThreshold(head_dim=2, renormalize="exponentials").double().eval()
    again.load_state_dict(module.state_dict())
    kept = (expected > 0) * rows[0, 0].exp()
    torch.testing.assert_close(again(q, rows)[0][0, 0], kept / kept.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("gradient", ["straight_through", "published"])
def test_training_has_the_values_of_evaluation_and_a_gradient_where_it_should(gradient):
    torch.manual_seed(0)
    module = AdaptiveThreshold(head_dim=6, gradient=gradient).double()
    q, matrix = torch.randn(2, 3, 5, 6).double(), torch.randn(2, 3, 5, 9).double().softmax(dim=-1)
    trained, _ = module.train()(q, matrix)
    assert torch.equal(trained, module.eval()(q, matrix)[0])
    (trained * torch.randn_like(trained)).sum().backward()
    moved = [bool(parameter.grad.any()) for parameter in module.parameters()]
    assert moved == [gradient == "straight_through"] * 2


def test_straight_through_gradient_is_that_of_the_soft_decision():
    torch.manual_seed(0)
    module = AdaptiveThreshold(head_dim=6, sharpness=4.0).double().train()
    q, matrix = torch.randn(1, 1, 1, 6).double(), torch.randn(1, 1, 1, 9).double().softmax(dim=-1)
    weights = torch.randn(9).double()
    (module(q, matrix)[0] * weights).sum().backward()
    ours = module.g.grad.item()
    a, low, high = matrix.flatten(), matrix.min(), matrix.max()
    level = (module.project(q).sigmoid() * module.g.sigmoid()).detach().requires_grad_()
    soft = (4.0 * ((a - low) / (high - low) - level.flatten())).sigmoid()
    hard = (a >= low + level.detach().flatten() * (high - low)).double()
    decision = hard + soft - soft.detach()
    ((decision * a / (decision * a).sum()) * weights).sum().backward()
    of_g = module.project(q).sigmoid() * module.g.sigmoid() * (1 - module.g.sigmoid())
    assert ours == pytest.approx((level.grad * of_g).item(), rel=1e-9)


def test_attention_gets_no_gradient_through_the_decision():
    """The height of an entry within its row decides, but is a constant: the gradient is that of the kept values."""
    torch.manual_seed(0)
    module = AdaptiveThreshold(head_dim=6).double().train()
    q, matrix = torch.randn(1, 2, 3, 6).double(), torch.randn(1, 2, 3, 9).double().softmax(dim=-1).requires_grad_()
    weights = torch.randn(9).double()
    (ours,) = torch.autograd.grad((module(q, matrix)[0] * weights).sum(), matrix)
    kept = (module(q, matrix)[0] > 0).double()
    assert 0 < kept.mean() < 1
    values = kept * matrix
    (expected,) = torch.autograd.grad((values / values.sum(dim=-1, keepdim=True) * weights).sum(), matrix)
    torch.testing.assert_close(ours, expected)


def test_dropout_of_the_attention_is_behind_its_projection():
    module = attention(dropout=0.5).train()
    torch.manual_seed(0)
    x, asking = tokens(batch=2).repeat(1, 1, 1), some_ask()
    for layout in (Layout(), Layout(query_mask=asking)):
        rows = torch.stack([module(x, layout)[0] for _ in range(40)])[:, asking]
        assert abs((rows == 0).double().mean() - 0.5) < 0.05
    assert (module.eval()(x)[0] != 0).all()


def test_g_is_released_after_its_share_of_the_training():
    module = AdaptiveThreshold(head_dim=6, release_at=0.25).double().train()
    q, matrix = torch.randn(2, 3, 5, 6).double(), torch.randn(2, 3, 5, 9).double().softmax(dim=-1)
    for progress, released in ((0.0, False), (0.24, False), (0.25, True), (1.0, True)):
        module.zero_grad()
        module.progress = progress
        (module(q, matrix)[0] * torch.randn(9).double()).sum().backward()
        assert bool(module.g.grad.any()) == released
        assert module.project.weight.grad.any()
    assert module.g.item() == -2.0


# the whole


def test_without_its_parts_it_is_the_plain_attention():
    torch.manual_seed(0)
    plain = Attention(8, num_heads=2).double().eval()
    ours = AdaptiveAttention(8, num_heads=2, qkv_bias=True, grid=GRID).double().eval()
    ours.load_state_dict(plain.state_dict())
    x = tokens()
    torch.testing.assert_close(ours(x)[0], plain(x)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dependencies", [None, AdaptiveThreshold])
def test_kept_rows_are_the_unpruned_ones_and_the_others_get_nothing(dependencies, training):
    module = attention(**all_parts(dependencies=dependencies)).train(training)
    x, asking = tokens(), some_ask()
    whole, _ = module(x)
    update, stats = module(x, Layout(query_mask=asking))
    torch.testing.assert_close(update[asking], whole[asking], rtol=0, atol=1e-12)
    assert not update[~asking].any()
    assert (stats.pruned is None) == (dependencies is None)


def test_an_image_is_the_same_alone_and_in_any_batch():
    module = attention(**all_parts())
    x, asking = tokens(), some_ask()
    together, stats = module(x, Layout(query_mask=asking))
    for image in range(2):
        own = slice(image, image + 1)
        alone, of_it = module(x[own], Layout(query_mask=asking[own]))
        torch.testing.assert_close(alone, together[own], rtol=0, atol=1e-12)
        torch.testing.assert_close(of_it.pruned, stats.pruned[own], rtol=0, atol=0)


def test_an_image_of_which_no_token_asks():
    module = attention(**all_parts())
    asking = some_ask()
    asking[0] = False
    update, stats = module(tokens(), Layout(query_mask=asking))
    assert not update[0].any()
    assert update.isfinite().all()
    # nothing to prune is not "nothing pruned"
    assert stats.pruned.isnan().tolist() == [True, False]


def test_matrices_for_pictures():
    module = attention(**all_parts())
    x, asking = tokens(), some_ask()
    _, plain = module(x, Layout(query_mask=asking))
    _, stats = module(x, Layout(query_mask=asking), wants=("matrices",))
    before, after = stats.matrices
    assert before.shape == after.shape == (2, 2, N, N)
    torch.testing.assert_close(before.sum(dim=-1), asking[:, None].expand(2, 2, N).double())
    torch.testing.assert_close(after.sum(dim=-1), asking[:, None].expand(2, 2, N).double())
    zeros = (after == 0)[asking[:, None].expand(2, 2, N)]
    assert plain.matrices is None
    rows = asking.sum(dim=1) * 2 * N
    assert zeros.sum().item() == pytest.approx((plain.pruned * rows).sum().item())


def test_every_parameter_gets_a_gradient():
    module = attention(**all_parts()).train()
    update, stats = module(tokens(), Layout(query_mask=some_ask()))
    (update * torch.randn_like(update)).sum().backward()
    assert stats.loss.isfinite()
    missing = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


@pytest.mark.parametrize("dependencies", [None, AdaptiveThreshold])
def test_no_parameter_is_without_a_gradient_where_no_token_asks(dependencies):
    module = attention(**all_parts(dependencies=dependencies, ssa=None)).train()
    update, _ = module(tokens(), Layout(query_mask=torch.zeros(2, N, dtype=torch.bool)))
    update.sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []


def test_products_do_not_overflow_in_half_precision():
    module = AdaptiveAttention(128, num_heads=1, qkv_bias=False, grid=GRID)
    q = torch.full((1, 1, 2, 128), 30.0, dtype=torch.float16)
    # 128 * 900 is more than fp16 holds, and that over the root of 128 is not
    assert module.products(q, q).max().item() == pytest.approx(128 * 900 / math.sqrt(128), rel=1e-2)


# the gate


def test_gate_prunes_what_is_background_for_sure():
    gate = QueryGate(spatial_dims=2, in_channels=1, threshold=0.9)
    with torch.no_grad():
        gate.classify.weight.copy_(torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1))
        gate.classify.bias.zero_()
    # sigmoid(x) is the probability of background; log(9) is where it reaches 0.9
    features = torch.tensor([[math.log(9) - 0.01, math.log(9) + 0.01], [-5.0, 5.0]]).reshape(1, 1, 2, 2)
    logits, asking = gate(features)
    assert asking.tolist() == [[True, False, True, False]]
    assert logits.shape == (1, 2, 2, 2)
