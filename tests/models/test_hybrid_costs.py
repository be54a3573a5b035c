"""What APFormer, SETR-PUP and TransUNet cost, against the published figures; counted on the meta device."""

import pytest
import torch

from sct.config.check import build
from sct.config.command import compose_config
from sct.models.segmenter import Segmenter
from sct.profiling.macs import count_layers, count_macs, count_parameters

# APFormer before its gate prunes anything; thresholds add their linear layers
UNPRUNED = ("encoder.gate=null",)


def network(*overrides: str, size: int, classes: int) -> Segmenter:
    cfg = compose_config("train", overrides=["completion=scatter", *overrides])
    sizes = {"image_size": [size, size], "in_channels": 3, "num_classes": classes}
    with torch.device("meta"):
        return Segmenter(
            encoder=build(cfg.encoder, key="encoder", **sizes),
            completion=build(cfg.completion, key="completion"),
            decoder=build(cfg.decoder, key="decoder"),
            num_classes=classes,
        )


def gmacs(segmenter: Segmenter, *, size: int, convention: str) -> dict[str, float]:
    image = torch.empty(1, 3, size, size, device="meta")
    return {part: macs / 1e9 for part, macs in count_macs(segmenter, image, convention=convention).items()}


def test_apformer():
    with_gate = network("encoder=apformer", "decoder=unet", size=256, classes=2)
    assert count_parameters(with_gate) / 1e6 == pytest.approx(2.64, rel=1e-2)
    unpruned = network("encoder=apformer", "decoder=unet", *UNPRUNED, size=256, classes=2)
    # 4.27 G were measured on the authors' program; where the 0.7 % come from was not traced (norms, probably)
    assert gmacs(unpruned, size=256, convention="modules")["total"] == pytest.approx(4.27, rel=1e-2)
    assert gmacs(unpruned, size=256, convention="fvcore")["total"] == pytest.approx(10.7, rel=5e-3)


@pytest.mark.parametrize("encoder", ["setr", "ap_setr"])
def test_setr_pup(encoder):
    segmenter = network(f"encoder={encoder}", "decoder=setr_pup", "decoder.hidden=128", size=256, classes=2)
    assert count_parameters(segmenter) / 1e6 == pytest.approx(39.2, rel=1e-2)
    # self-attention's linears, the paper's SA-GFLOPs
    blocks = 12 * 4 * 1024 * 512**2 / 1e9
    assert blocks == pytest.approx(12.89, rel=1e-3)
    mlps = 2 * blocks
    embedding = 1024 * 512 * 192 / 1e9
    thresholds = 12 * 1024 * 512 / 1e9 if encoder == "ap_setr" else 0
    counted = gmacs(segmenter, size=256, convention="modules")["encoder"]
    assert counted == pytest.approx(blocks + mlps + embedding + thresholds, rel=1e-9)


def test_transunet():
    segmenter = network("encoder=transunet", "decoder=cup", size=224, classes=9)
    assert count_parameters(segmenter) / 1e6 == pytest.approx(105.3, rel=5e-3)
    # the published 24.6 G leave out the weight-standardised convolutions of the ResNet, which counters by class miss
    image = torch.empty(1, 3, 224, 224, device="meta")
    stem = count_macs(Stem(segmenter.encoder.stem), image, convention="modules")["total"] / 1e9
    assert stem == pytest.approx(3.94, rel=1e-2)
    total = gmacs(segmenter, size=224, convention="modules")["total"]
    assert total - stem == pytest.approx(24.6, rel=5e-3)


# network -> self-attention's linear layers by hand (4 N C^2 a block; APFormer has 6 heads of 128), and the paper's G
SELF_ATTENTION = {
    "setr": (12 * 4 * 1024 * 512**2, 12.89),
    # the paper's tool counts biases too, 0.01 G
    "transunet": (12 * 4 * 256 * 768**2, 7.26),
    # what the paper counts beside the projections is not said
    "apformer": (4 * 4 * 1024 * 128 * 768, 1.63),
}


@pytest.mark.parametrize("encoder", SELF_ATTENTION)
def test_self_attention_as_the_paper_counts_it(encoder):
    decoder = {"setr": "setr_pup", "transunet": "cup", "apformer": "unet"}[encoder]
    prune_nothing = ("encoder.gate=null", "encoder.attention.dependencies=null") if encoder == "apformer" else ()
    segmenter = network(f"encoder={encoder}", f"decoder={decoder}", *prune_nothing, size=256, classes=2)
    by_hand, published = SELF_ATTENTION[encoder]
    found = count_layers(segmenter, torch.empty(2, 3, 256, 256, device="meta"))
    assert found["self_attention"] == by_hand
    assert by_hand / 1e9 == pytest.approx(published, rel=1.3e-2)
    assert found["total"] / 1e9 == pytest.approx(gmacs(segmenter, size=256, convention="modules")["total"])


class Stem(torch.nn.Module):
    """A stem in the shape that `count_macs` takes."""

    def __init__(self, stem):
        super().__init__()
        self.encoder, self.completion, self.decoder = stem, torch.nn.Identity(), torch.nn.Identity()

    def forward(self, image):
        return self.completion(self.decoder(self.encoder(image)[0]))
