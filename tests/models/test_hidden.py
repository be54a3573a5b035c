"""Which patches an encoder hides, and which networks see them all the same."""

import pytest
import torch
from stp_by_hand import random_tokens

from sct.config.check import build
from sct.config.command import compose_config
from sct.errors import UserError
from sct.models.hidden import check_hidden, hidden_patches, in_voxels
from sct.models.tokens import Encoded
from sct.runs.build import build_segmenter

SMALL = ("+experiment=demo_mae", "data.roi_size=[16,16,16]", "encoder.dim=24", "encoder.depth=2", "encoder.num_heads=2")


def network_of(*overrides):
    cfg = compose_config("train", overrides=[*SMALL, *overrides])
    torch.manual_seed(0)
    return build_segmenter(cfg, data=build(cfg.data, key="data"))


BLIND = {
    "as shipped": (),
    "fcn": ("decoder=fcn",),
    "no details of the image": ("decoder=patchwise", "decoder.detail=0"),
    "modern blocks": ("+variant=primus", "encoder.dim=24", "encoder.num_heads=2"),
}
SEEING = {
    "MTA gets embeddings of dropped patches": ("completion=mta",),
    "Scatter, too": ("completion=scatter",),
    "a decoder that reads the image": ("decoder=thin",),
    "details of the image": ("decoder=patchwise",),
    "dropped after attention": ("pruning.blocks=[1]",),
    "dropped at the embedding and later": ("pruning.blocks=[0,1]",),
    "chosen by what is in them": ("encoder=stp", "pruning.blocks=[0]", "data.roi_size=[48,48,48]"),
    "convolutions before the tokens": (
        "encoder=primus_v2",
        "+encoder.reducer._target_=sct.models.reducers.controls.Random",
        "+encoder.reducer._partial_=true",
        "+encoder.reducer.blocks=[0]",
        "encoder.dim=24",
        "encoder.num_heads=2",
        "encoder.depth=2",
    ),
    "no encoder at all": ("model=monai_unet",),
}


@pytest.mark.parametrize("overrides", BLIND.values(), ids=BLIND)
def test_a_blind_network_passes(overrides):
    network = network_of(*overrides).train()
    state = torch.random.get_rng_state()
    check_hidden(network)
    assert network.training
    assert torch.equal(torch.random.get_rng_state(), state), "the draws of the training stay as they are"
    image = torch.randn(1, 1, 16, 16, 16, requires_grad=True)
    prediction = network.predict(image)
    hidden = in_voxels(hidden_patches(prediction.encoded), prediction.encoded.grid, size=image.shape[2:])
    assert hidden.float().mean() == 0.75
    prediction.logits[hidden].square().sum().backward()
    assert (image.grad[hidden] == 0).all()
    assert (image.grad[~hidden] != 0).any()


@pytest.mark.parametrize("overrides", SEEING.values(), ids=SEEING)
def test_a_network_that_could_copy_is_refused(overrides):
    with pytest.raises(UserError, match=r"this network sees them.*\+variant=mae"):
        check_hidden(network_of(*overrides))


@pytest.mark.parametrize("overrides", [("encoder=dense",), ("encoder=tome", "pruning.blocks=[1]")], ids=str)
def test_an_encoder_that_hides_nothing_is_refused(overrides):
    with pytest.raises(UserError, match="it sees all"):
        check_hidden(network_of(*overrides))


def test_hidden_are_the_places_without_a_final_token():
    tokens = random_tokens(B=1, N=6)
    keep = torch.tensor([[0, 4]])
    encoded = Encoded((2, 3), tokens.take(keep), torch.zeros(1, 0, 1))
    hidden = hidden_patches(encoded)
    assert hidden.tolist() == [[False, True, True, True, False, True]]
    voxels = in_voxels(hidden, (2, 3), size=torch.Size((4, 3)))
    assert voxels[0, 0].int().tolist() == [[0, 1, 1], [0, 1, 1], [1, 0, 1], [1, 0, 1]]
