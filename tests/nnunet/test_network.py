"""Networks and losses for nnU-Net, without nnU-Net: what its plans keep, and its targets."""

import json
import re

import pytest
import torch

from sct.config.check import build
from sct.data.outputs import Classes, Regions
from sct.errors import UserError
from sct.nnunet import FOLDER
from sct.nnunet.loss import Loss, labels_of, outputs_of
from sct.nnunet.network import SECTION, Described, describe, fitting_patch

CLASSES = {"labels": {"background": 0, "a": 1, "b": 2}}
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]},
    "regions_class_order": [1, 2, 3],
}
LITTLE = (
    "encoder=stp_taught",
    "completion=mta",
    "decoder=thin",
    "encoder.dim=24",
    "encoder.depth=2",
    "encoder.num_heads=2",
    "pruning.blocks=[1]",
    "pruning.ratio=0.5",
)


def with_ignore(dataset: dict) -> dict:
    return {**dataset, "labels": {**dataset["labels"], "ignore": 1 + max(map(largest, dataset["labels"].values()))}}


def largest(value: int | list[int]) -> int:
    return max(value) if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("image", "side", "patch"),
    [((40, 56, 40), 8, (8, 8, 8)), ((20, 320, 256), 8, (4, 8, 8)), ((28, 30), [16, 16], (4, 2))],
)
def test_a_patch_divides_the_image(image, side, patch):
    assert fitting_patch(image, largest=side) == patch


def test_a_patch_for_another_number_of_axes_is_refused():
    with pytest.raises(UserError, match=r"encoder.patch_size=\[8, 8, 4\] has 3 numbers, .* have 2"):
        fitting_patch((64, 64), largest=[8, 8, 4])


def test_the_plans_keep_all_that_the_network_is_built_from():
    plans = {"configurations": {"3d": {"patch_size": [16, 24, 8]}}}
    described = Described(LITTLE, image_size=(16, 24, 8), overlapping=False)
    describe(plans, configuration="3d", described=described)
    kept = json.loads(json.dumps(plans))["configurations"]["3d"][SECTION]["arch_kwargs"]
    assert Described.read(kept) == described
    network = Described.read(kept).network(in_channels=2, num_classes=3).eval()
    assert network(torch.randn(1, 2, 16, 24, 8)).shape == (1, 3, 16, 24, 8)
    assert network.encoder.spec.grid == (2, 3, 1)


def test_plans_of_another_network_are_refused():
    with pytest.raises(UserError, match=r"describe another network .*n_stages"):
        Described.read({"n_stages": 6})


def test_plans_may_not_name_code():
    described = Described((*LITTLE, "decoder._target_=os.system"), image_size=(16, 16, 16), overlapping=False)
    with pytest.raises(UserError, match=r"os\.system"):
        described.network(in_channels=1, num_classes=2)


@pytest.mark.parametrize(
    "override",
    ["hydra.searchpath=[evil]", "--config-dir=evil", "encoder=../evil", "name=${oc.env:HOME}", "resume=evil", 3],
)
def test_plans_hold_settings_alone(override):
    kept = {"overrides": [*LITTLE, override], "image_size": [16, 16, 16], "overlapping": False}
    with pytest.raises(UserError, match="which is no setting"):
        Described.read(kept)


def test_the_plans_of_the_shipped_trainers_are_read():
    trainers = (FOLDER / "sct_trainers.py").read_text()
    overrides = re.findall(r'"((?:\w+\.)*\w+=[^"]*)"', trainers)
    assert len(overrides) > 10
    kept = {"overrides": overrides, "image_size": [16, 16, 16], "overlapping": False}
    assert Described.read(kept).overrides == tuple(overrides)


def test_labels_of_classes_are_the_target():
    outputs = outputs_of(with_ignore(CLASSES))
    assert isinstance(outputs, Classes)
    assert outputs.label_map.ignored == 3
    target = torch.tensor([[[[0, 1], [2, 3]]]], dtype=torch.int16)
    assert labels_of(target, outputs=outputs).tolist() == [[[0, 1], [2, 3]]]


@pytest.mark.parametrize("ignored", [False, True])
def test_labels_of_regions_are_found_from_the_masks(ignored):
    outputs = outputs_of(with_ignore(REGIONS) if ignored else REGIONS)
    assert isinstance(outputs, Regions)
    labels = torch.tensor([[[0, 1], [2, 3]]])
    masks = outputs.targets(labels)
    if ignored:
        masks = torch.cat([masks, torch.tensor([[[[False, True], [False, False]]]])], dim=1)
        labels = torch.tensor([[[0, 4], [2, 3]]])
    assert labels_of(masks.float(), outputs=outputs).tolist() == labels.tolist()


@pytest.mark.parametrize("dataset", [CLASSES, with_ignore(CLASSES), REGIONS])
def test_the_loss_has_all_terms_in_training_and_the_pixels_in_validation(dataset):
    torch.manual_seed(0)
    outputs = outputs_of(dataset)
    described = Described(LITTLE, image_size=(16, 16, 16), overlapping=outputs.overlapping)
    network = described.network(in_channels=1, num_classes=outputs.num_channels)
    criterion = build(described.config.loss, key="loss", outputs=outputs)
    loss = Loss(criterion)
    labels = torch.randint(0, outputs.label_map.num_values, (2, 16, 16, 16))
    target = outputs.targets(labels).float() if outputs.overlapping else labels.unsqueeze(1)
    image = torch.randn(2, 1, 16, 16, 16)
    prediction = network(image)
    parts = criterion(prediction, labels, image=image)
    assert parts["worth"] > 0
    torch.testing.assert_close(loss(prediction, target), parts["loss"])
    torch.testing.assert_close(loss(prediction.logits, target), parts["pixel"])
    loss(prediction, target).backward()
    assert all(p.grad is not None for name, p in network.named_parameters() if "scorers" in name)
