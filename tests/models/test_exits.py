"""The canvas of early exits, place by place."""

import torch

from sct.models.exits import class_canvas, live_tokens, mask_canvas, merge_stages, overwrite, predict
from sct.models.grid import assemble
from sct.models.tokens import Dense, Early, Encoded, TokenOutput, Tokens

B, N, C, Q = 2, 4, 3, 2
GRID = (2, 2)
# what leaves image by image: after the first stage, after the second, never
LEAVES = [[[0, 3], []], [[1], [0, 1, 2, 3]], [[2], []]]


def packed(places):
    index = torch.tensor([place for image in places for place in image]).long().unsqueeze(0)
    return Tokens(torch.randn(1, index.shape[1], C), index, lengths=tuple(map(len, places)))


def alive(stage):
    """The places that a stage sees."""
    return [sorted(place for leaves in LEAVES[stage:] for place in leaves[b]) for b in range(B)]


def encoded_by_hand(*, classes):
    torch.manual_seed(0)
    dropped, final = [packed(places) for places in LEAVES[:2]], packed(LEAVES[2])
    said = []
    for stage in range(2):
        seen = packed(alive(stage))
        masks = torch.randn(*seen.index.shape, Q, requires_grad=True)
        said.append(TokenOutput(seen, masks, torch.randn(B, Q, 2) if classes else None))
    return Encoded(GRID, final, torch.empty(B, 0, C), dropped=dropped, early_outputs=said)


def word_of(encoded, stage, image, place):
    tokens = encoded.early_outputs[stage].tokens
    column = ((tokens.images()[0] == image) & (tokens.index[0] == place)).nonzero().item()
    return encoded.early_outputs[stage].masks[0, column]


def test_every_place_keeps_the_word_of_the_last_head_that_saw_it():
    for classes in (False, True):
        encoded = encoded_by_hand(classes=classes)
        early = merge_stages(encoded, losses=True)
        for b in range(B):
            for place in range(N):
                last = 0 if place in LEAVES[0][b] else 1
                assert torch.equal(early.canvas[b, :, place], word_of(encoded, last, b, place))
                assert early.exited[b, place] == (place not in LEAVES[2][b])
                assert torch.equal(early.stages[0].masks[b].flatten(1)[:, place], word_of(encoded, 0, b, place))
                assert torch.equal(early.stages[1].masks[b].flatten(1)[:, place], early.canvas[b, :, place])
                if classes:
                    scores = encoded.early_outputs[last].classes[b].softmax(dim=-1)[:, 0].log()
                    torch.testing.assert_close(early.present[b, :, place], scores)
        assert classes == (early.present is not None)
        assert merge_stages(encoded, losses=False).stages == []


def test_a_head_is_trained_on_the_tokens_that_it_saw():
    encoded = encoded_by_hand(classes=False)
    merge_stages(encoded, losses=True).stages[1].masks.sum().backward()
    assert encoded.early_outputs[0].masks.grad is None
    assert (encoded.early_outputs[1].masks.grad == 1).all()


def test_a_query_heads_word_as_class_logits():
    torch.manual_seed(0)
    masks, present = torch.randn(B, Q, N), torch.rand(B, Q, N)
    early = Early(masks, torch.ones(B, N, dtype=torch.bool), present.log())
    torch.testing.assert_close(class_canvas(early).exp(), masks.sigmoid() * present)
    assert mask_canvas(early) is masks


def test_class_logits_as_masks():
    torch.manual_seed(0)
    early = Early(torch.randn(B, Q, N), torch.ones(B, N, dtype=torch.bool))
    torch.testing.assert_close(mask_canvas(early).sigmoid(), early.canvas.softmax(dim=1))
    assert class_canvas(early) is early.canvas


def test_a_decoders_head_sees_the_live_tokens_alone():
    encoded = encoded_by_hand(classes=False)
    early = merge_stages(encoded, losses=False)
    x = assemble([tokens.x for tokens in encoded.sets], encoded.sets, num_tokens=N).requires_grad_()
    dense = Dense(GRID, x, early=early, live=encoded.final)
    seen = []

    def head(tokens):
        seen.append(tokens)
        return TokenOutput(tokens, tokens.x[..., :Q])

    masks = predict(head, dense, canvas=class_canvas).masks
    assert torch.equal(seen[0].x, encoded.final.x)
    assert masks.shape == (B, Q, *GRID)
    for b in range(B):
        for place in range(N):
            expected = x[b, place, :Q] if place in LEAVES[2][b] else early.canvas[b, :, place]
            assert torch.equal(masks[b].flatten(1)[:, place], expected)
    masks.sum().backward()
    assert x.grad.any(dim=2).nonzero().tolist() == [[0, 2]]
    plain = predict(head, Dense(GRID, x), canvas=class_canvas).masks
    assert torch.equal(plain, x[..., :Q].transpose(1, 2).reshape(B, Q, *GRID))


def test_a_token_without_a_place_keeps_its_own_features():
    live = Tokens(torch.randn(1, 3, C), torch.tensor([[1, N, N]]), lengths=(2, 1))
    x = assemble([live.x], [live], num_tokens=N)
    assert torch.equal(live_tokens(Dense(GRID, x, early=Early(x, x), live=live)).x, live.x)


def test_overwrite_keeps_exited_places_as_constants():
    canvas = torch.zeros(1, 1, 3, requires_grad=True)
    tokens = Tokens(torch.randn(1, 2, C), torch.tensor([[0, 2]]))
    said = TokenOutput(tokens, torch.ones(1, 2, 1, requires_grad=True))
    merged = overwrite(canvas, said, exited=torch.tensor([[True, True, False]]))
    assert merged.tolist() == [[[0, 0, 1]]]
    merged.sum().backward()
    assert canvas.grad is None
    assert said.masks.grad.flatten().tolist() == [0, 1]
