"""Little networks with DToP whose heads are sure of some tokens and not of others."""

from functools import partial

import torch
from torch import nn

from sct.models.completion.scatter import Scatter
from sct.models.decoders.atm import ATM
from sct.models.decoders.fcn import FCN
from sct.models.encoder import ViTEncoder
from sct.models.heads import ATMHead, FCNHead
from sct.models.reducers.dtop import DToP
from sct.models.segmenter import Segmenter
from sct.models.tokens import FeatureSpec, TokenOutput, Tokens

Q = 3
SIZE = (24, 24)
TOKENS = 36
HEADS = {"atm": partial(ATMHead, num_heads=2), "fcn": partial(FCNHead, hidden=8)}
DECODERS = {"atm": partial(ATM, num_heads=2), "fcn": partial(FCN, hidden=8)}
# noise on the weights of the early heads that spreads their confidence
LOUD = {"atm": 0.8, "fcn": 0.3}


def little_dtop(*, head="fcn", decoder=None, completion=Scatter, prune=True, **settings):
    """A 2-D network in evaluation mode, pruning after blocks 1 and 2 of 3, or never."""
    torch.manual_seed(0)
    reducer = partial(DToP, blocks=(1, 2), head=head, **HEADS, **settings)
    encoder = ViTEncoder(
        image_size=SIZE,
        in_channels=1,
        num_classes=Q,
        patch_size=4,
        dim=24,
        depth=3,
        num_heads=2,
        class_token=False,
        reducer=reducer if prune else None,
    )
    make = DECODERS.get(decoder or head, decoder)
    network = Segmenter(encoder=encoder, completion=completion, decoder=make, num_classes=Q)
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.add_(torch.randn_like(p), alpha=LOUD[head] if "reducer." in name else 0.2)
            if name.endswith("classify.bias") and len(p) == 2:
                p.copy_(torch.tensor([3.0, 0.0]))  # most classes are present
    return network.eval()


def images(count=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, *SIZE, generator=generator) * torch.arange(1, count + 1).reshape(-1, 1, 1, 1)


class Given(nn.Module):
    """A head whose class logits are known: (B, N, Q), of which it gives those of the tokens it sees."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, tokens):
        places = tokens.index.clamp(max=self.logits.shape[1] - 1)
        return TokenOutput(tokens, self.logits[tokens.images(), places])


def given_dtop(*logits, **settings):
    """DToP with known class logits (B, N, Q) a stage, and its tokens."""
    B, N, classes = logits[0].shape
    spec = FeatureSpec((1, N), 1, (1, 1), 8, 2, num_classes=classes)
    dtop = DToP(spec=spec, blocks=range(1, 1 + len(logits)), head="fcn", **settings)
    dtop.heads = nn.ModuleList(Given(stage) for stage in logits)
    return dtop, Tokens(torch.randn(B, N, 8, requires_grad=True), torch.arange(N).expand(B, -1))
