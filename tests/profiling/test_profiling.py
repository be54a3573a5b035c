"""Costs: MACs against the published figures and closed forms, tokens alive, time, memory, the table."""

import json
from functools import cache, partial

import pytest
import torch
from commands import run_command
from torch import nn

from sct.config.check import build
from sct.config.command import compose_config
from sct.config.schema import ProfileConfig
from sct.data.outputs import numbered
from sct.errors import UserError
from sct.losses.criterion import Criterion
from sct.losses.dice_ce import DiceCE
from sct.losses.query import QueryLoss
from sct.models.blocks.layers import Block
from sct.models.completion.mta import MTA
from sct.models.completion.scatter import Scatter
from sct.models.decoders.unetr import UNETR
from sct.models.encoder import ViTEncoder
from sct.models.reducers.stp import STP
from sct.models.segmenter import Segmenter
from sct.models.tokens import Encoded, Tokens
from sct.profile import main as profile_main
from sct.profiling.macs import PARTS, count_macs, count_parameters
from sct.profiling.profile import format_profile
from sct.profiling.segmenter import gain_bound, profile_segmenter, tokens_alive
from sct.profiling.timing import Stopwatch, peak_memory_mb
from sct.runs.build import build_segmenter

CPU = torch.device("cpu")
BTCV = {"size": 96, "channels": 1, "classes": 14, "layout": "deep"}
BRATS = {"size": 128, "channels": 4, "classes": 3}


@cache
def vit_b(*, size, channels, classes, layout, dense):
    """The network of the paper on the meta device."""
    with torch.device("meta"):
        encoder = ViTEncoder(
            image_size=(size,) * 3,
            in_channels=channels,
            patch_size=8,
            dim=768,
            depth=12,
            num_heads=12,
            taps=(3 if layout == "deep" else 2) if dense else 0,
            reducer=None if dense else STP,
        )
        return Segmenter(
            encoder=encoder,
            completion=Scatter if dense else MTA,
            decoder=partial(UNETR, layout=layout),
            num_classes=classes,
        )


@cache
def giga(*, ratio=None, rounding="nearest", convention="fvcore", **network):
    """MACs in G of the network of the paper, dense without `ratio`."""
    segmenter = vit_b(**network, dense=ratio is None)
    if ratio is not None:
        segmenter.encoder.reducer.ratio, segmenter.encoder.reducer.rounding = ratio, rounding
    image = torch.empty(1, network["channels"], *[network["size"]] * 3, device="meta")
    return {part: macs / 1e9 for part, macs in count_macs(segmenter, image, convention=convention).items()}


def small(*, size=32, reducer=None):
    torch.manual_seed(0)
    encoder = ViTEncoder(
        image_size=(size,) * 2,
        in_channels=1,
        patch_size=4,
        dim=24,
        depth=4,
        num_heads=2,
        reducer=reducer,
    )
    return Segmenter(
        encoder=encoder,
        completion=MTA if reducer else Scatter,
        decoder=partial(UNETR, feature_size=4),
        num_classes=3,
    )


class Layers(nn.Module):
    """Any layers under the names of a segmenter's parts, on one input."""

    def __init__(self, encoder, completion=None, decoder=None):
        super().__init__()
        self.encoder, self.completion = encoder, completion or nn.Identity()
        self.decoder = decoder or nn.Identity()

    def forward(self, x):
        return self.decoder(self.completion(self.encoder(x)))


@pytest.mark.parametrize(
    ("network", "total", "encoder", "completion", "decoder"),
    [
        ({**BTCV}, 258.9, 202.80, 0, 56.12),
        ({**BTCV, "ratio": 0.9}, 132.31, 57.30, 18.89, 56.12),
        ({**BRATS, "layout": "deep"}, 799.4, 664, 0, 135.46),
        ({**BRATS, "layout": "deep", "ratio": 0.25}, 607.98, 412.85, 59.66, 135.46),
        ({**BRATS, "layout": "deep", "ratio": 0.5}, 474.57, 279.44, 59.66, 135.46),
        ({**BRATS, "layout": "deep", "ratio": 0.75}, 404.99, 209.87, 59.66, 135.46),
        ({**BRATS, "layout": "deep", "ratio": 0.9}, 380.87, 185.74, 59.66, 135.46),
    ],
)
def test_fvcore_figures(network, total, encoder, completion, decoder):
    found = giga(**network)
    assert found == pytest.approx(
        {"total": total, "encoder": encoder, "completion": completion, "decoder": decoder}, rel=0.005
    )


@pytest.mark.parametrize(
    ("network", "total"),
    [
        ({**BTCV}, 273.451),
        ({**BTCV, "ratio": 0.9}, 146.627),
        ({**BRATS, "layout": "shallow"}, 824.379),
        ({**BRATS, "layout": "shallow", "ratio": 0.25}, 631.749),
        ({**BRATS, "layout": "shallow", "ratio": 0.5}, 497.967),
        ({**BRATS, "layout": "shallow", "ratio": 0.75}, 428.281),
        ({**BRATS, "layout": "shallow", "ratio": 0.9}, 404.143),
    ],
)
def test_printed_totals_to_the_digit_with_the_programs_rounding(network, total):
    # K is a whole number at every stage of the other ratios
    rounding = {"rounding": "floor"} if network.get("ratio") == 0.9 else {}
    found = giga(**network, **rounding, convention="paper")
    assert found["total"] == pytest.approx(total, abs=0.0006)
    assert giga(**network, convention="paper")["total"] == pytest.approx(total, rel=0.002)


@pytest.mark.parametrize(("convention", "layout"), [("fvcore", "deep"), ("paper", "shallow")])
def test_savings(convention, layout):
    for network, savings in (
        (BTCV, {0.9: 126.82}),
        ({**BRATS, "layout": layout}, {0.25: 192.63, 0.5: 326.41, 0.75: 396.10, 0.9: 420.24}),
    ):
        dense = giga(**network, convention=convention)["total"]
        for ratio, saving in savings.items():
            sparse = giga(**network, ratio=ratio, convention=convention)["total"]
            assert dense - sparse == pytest.approx(saving, rel=0.01)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_block_equals_closed_form(device):
    N, C, H = 37, 24, 3
    network = Layers(Block(C, num_heads=H)).to(device)
    x = torch.zeros(1, N, C, device=device)
    form = 4 * N * C**2 + 2 * N**2 * C + 8 * N * C**2
    assert count_macs(network, x)["encoder"] == form + 2 * 5 * N * C
    assert count_macs(network, x, convention="paper")["encoder"] == form + H * N**2 + 2 * N * C
    assert count_macs(network, x, convention="modules")["encoder"] == 12 * N * C**2


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_convolutions_and_norms(device):
    network = Layers(
        nn.Conv3d(2, 6, 3, stride=2, padding=1, groups=2),
        nn.InstanceNorm3d(6),
        nn.ConvTranspose3d(6, 4, 2, stride=2),
    ).to(device)
    x = torch.zeros(3, 2, 8, 8, 8, device=device)
    conv, up, norm = 4**3 * 6 * 1 * 27, 4**3 * 6 * 4 * 8, 6 * 4**3
    expected = {
        "fvcore": (conv, 4 * norm, up),
        "paper": (conv, 0, 8 * up),
        "modules": (conv, 0, up),
    }
    for convention, parts in expected.items():
        found = count_macs(network, x, convention=convention)
        assert found == {"total": sum(parts), **dict(zip(PARTS, parts, strict=True))}, convention


def test_meta_counts_what_the_cpu_counts():
    network = small(reducer=partial(STP, blocks=(1, 3), ratio=0.5))
    image = torch.randn(2, 1, 32, 32)
    counted = count_macs(network, image)
    assert counted == count_macs(network, image[:1])
    assert counted == count_macs(network.to("meta"), image.to("meta"))
    assert counted["total"] == sum(counted[part] for part in PARTS)


def test_uncounted_products_are_told():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.baddbmm(x, x, x)

    with pytest.warns(UserWarning, match="baddbmm"):
        count_macs(Layers(Odd()), torch.zeros(2, 4, 4))


def test_parameters():
    network = small(reducer=partial(STP, blocks=(2,)))
    frozen = network.completion.position.numel()
    assert count_parameters(network) - count_parameters(network, trainable=True) == frozen
    assert count_parameters(network) == sum(count_parameters(getattr(network, part)) for part in PARTS)


def test_tokens_alive():
    network = small(reducer=partial(STP, blocks=(1, 3), ratio=0.75))
    image = torch.randn(2, 1, 32, 32)
    for module in (network.eval(), network.train()):
        assert tokens_alive(module.encoder, module.encoder(image)).tolist() == [[16, 16], [16, 16], [4, 4], [4, 4]]
    assert tokens_alive(small().encoder, small().encoder(image)).tolist() == [[64, 64]] * 4


def test_tokens_alive_of_every_image():
    encoder = small(reducer=partial(STP, blocks=(2,))).encoder
    x, index = torch.zeros(2, 5, 24), torch.arange(5).expand(2, -1)
    encoded = Encoded((8, 8), Tokens(x, index), x[:, :1], alive=[torch.tensor([60.0, 61.0])])
    assert tokens_alive(encoder, encoded).tolist() == [[64, 64], [60, 61], [60, 61], [60, 61]]


def test_peak_memory_sees_what_was_allocated_and_freed():
    # in small pieces, which the C library keeps for reuse; twice, since the second time it could reuse them
    for _ in range(2):
        peak = peak_memory_mb(lambda: [torch.ones(2**14) for _ in range(1024)], CPU)
        assert peak is None or 60 <= peak <= 120


def test_stopwatch_percentiles():
    watch = Stopwatch(CPU)
    watch.samples["total"] = [float(n) for n in range(11)]
    assert watch.time("run", lambda: 7) == 7
    assert watch.summary()["total"] == {"median": 5.0, "p10": 1.0, "p90": 9.0}


def test_gain_bound():
    assert gain_bound({"total": 10.0, "encoder": 5.0}) == 2.0
    assert gain_bound({"total": 1.0, "encoder": 1.5}) is None


@pytest.mark.parametrize("precision", ["auto", "bf16"])
@pytest.mark.parametrize("reducer", [None, partial(STP, blocks=(1, 3), ratio=0.75)], ids=["dense", "stp"])
def test_profile(reducer, precision, tmp_path):
    network = small(reducer=reducer)
    before = network.encoder.patch_embed.weight.clone()
    profile = profile_segmenter(
        network,
        image_shape=(1, 32, 32),
        criterion=Criterion(outputs=numbered(3), pixel=DiceCE(), query=QueryLoss()),
        make_optimizer=lambda segmenter: torch.optim.AdamW(segmenter.parameters()),
        settings=ProfileConfig(batch_size=2, warmup=1, repeats=3, precision=precision, trace=True),
        device=CPU,
        trace_dir=tmp_path / "trace",
    )
    assert not torch.equal(before, network.encoder.patch_embed.weight), "the training step trained nothing"
    profile.write(tmp_path / "profile.json")
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found["params"] == sum(found["params_by_part"].values())
    assert found["macs"]["total"] == sum(found["macs"][part] for part in PARTS)
    assert found["macs"]["convention"] == "fvcore"
    for kind in ("inference", "training"):
        times = found["latency_ms"][kind]
        assert set(times) == {"total", *PARTS}
        assert all(0 <= t["p10"] <= t["median"] <= t["p90"] for t in times.values())
        assert found["throughput"][kind] == pytest.approx(2e3 / times["total"]["median"])
        assert kind in found["peak_memory_mb"]
    assert set(found["gain_bound"]) == {"macs", "inference", "training"}
    assert list((tmp_path / "trace").glob("*.pt.trace.json"))
    text = format_profile(profile)
    chosen = found["environment"]["precision"]
    assert chosen in ("fp32", "bf16") if precision == "auto" else chosen == "bf16"
    assert found["environment"]["precision_reason"]
    for word in (*PARTS, "total", "tokens alive", "images/s", "if the encoder cost nothing", chosen):
        assert word in text


def test_counts_alone_on_the_meta_device():
    network = vit_b(**BTCV, dense=False)
    network.encoder.reducer.ratio, network.encoder.reducer.rounding = 0.9, "nearest"
    profile = profile_segmenter(
        network,
        image_shape=(1, 96, 96, 96),
        criterion=Criterion(outputs=numbered(3), pixel=DiceCE(), query=QueryLoss()),
        make_optimizer=torch.optim.AdamW,
        settings=ProfileConfig(latency=False),
        device=torch.device("meta"),
    )
    assert profile.params == pytest.approx(107.58e6, rel=1e-4)
    assert profile.tokens_alive == [1728] * 2 + [173] * 3 + [17] * 3 + [2] * 4
    assert profile.latency_ms == {}
    assert "132.35" in format_profile(profile)


@pytest.mark.parametrize(
    "choice",
    [
        *("encoder=dense", "encoder=stp", "encoder=evit", "encoder=dynamicvit", "encoder=random", "encoder=tome"),
        *("encoder=cropr", "model=monai_segresnet"),
    ],
)
def test_counting_without_computing_gives_the_same(choice, smoke):
    cfg = compose_config("train", overrides=[*smoke, choice])
    data = build(cfg.data, key="data")
    network = build_segmenter(cfg, data=data)
    assert not network.encoder.by_image
    computed, counted = (
        profile_segmenter(
            network,
            image_shape=(1, *data.roi_size),
            criterion=nn.Identity(),
            make_optimizer=torch.optim.AdamW,
            settings=ProfileConfig(latency=False),
            device=torch.device(device),
        )
        for device in ("cpu", "meta")
    )
    same = (
        "params",
        "params_by_part",
        "macs",
        "macs_layers",
        "macs_attention_layers",
        "tokens_alive",
        "tokens_alive_spread",
        "gain_bound",
    )
    assert {name: getattr(counted, name) for name in same} == {name: getattr(computed, name) for name in same}


def test_the_command_computes_only_where_the_image_decides(smoke, tmp_path):
    counts = ["profile.latency=false", f"run_dir={tmp_path}"]
    outcome = run_command(profile_main, *smoke, *counts, "profile.windows=2")
    assert outcome.status == 0, outcome
    assert "profile.windows=2 is ignored" in outcome.out
    assert json.loads((tmp_path / "profile.json").read_text())["environment"]["device"] == "meta"
    outcome = run_command(profile_main, *smoke, *counts, "encoder=apformer", "decoder=unet", "completion=scatter")
    assert outcome.status == 0, outcome
    assert "it is run" in outcome.out
    assert json.loads((tmp_path / "profile.json").read_text())["environment"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp8"}, "profile.precision"),
        ({"repeats": 0}, "profile.repeats"),
    ],
)
def test_mistakes_in_the_settings(settings, message):
    with pytest.raises(UserError, match=message):
        ProfileConfig(**settings)


def test_an_unknown_convention_is_one_message(smoke):
    outcome = run_command(profile_main, *smoke, "profile.convention=flops")
    assert outcome.status == 1
    assert "profile.convention='flops' is unknown; choose one of fvcore, paper, modules" in outcome.err
