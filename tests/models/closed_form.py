"""What each part costs by arithmetic alone: MACs an image of products, convolutions, and norms as fvcore counts.

Letters: N tokens of the grid, n tokens alive, P prefix tokens, L = P + n, C encoder width, D completion width.
"""

import math
from collections.abc import Callable

from closed_form_stems import AFFINE_NORM, BATCH_NORM, BILINEAR, PLAIN_NORM, STEMS, Ladder, conv_bn
from torch import nn

from sct.models.adaptive.attention import AdaptiveAttention
from sct.models.blocks.layers import Block
from sct.models.completion.mim import MIM
from sct.models.completion.mta import MTA
from sct.models.completion.scatter import Scatter
from sct.models.decoders.atm import ATM
from sct.models.decoders.cup import CUP
from sct.models.decoders.fcn import FCN
from sct.models.decoders.patchwise import Patchwise
from sct.models.decoders.primus import Primus
from sct.models.decoders.setr_pup import SETRPUP
from sct.models.decoders.thin import Thin
from sct.models.decoders.unet import UNet
from sct.models.decoders.unetr import UNETR
from sct.models.encoder import ViTEncoder
from sct.models.reducers.base import keep_count
from sct.models.reducers.controls import MinScore, Random
from sct.models.reducers.cropr import Cropr
from sct.models.reducers.dynamicvit import DynamicViT
from sct.models.reducers.evit import EViT
from sct.models.reducers.stp import STP
from sct.models.reducers.tome import ToMe
from sct.models.segmenter import Segmenter


def closed_form(segmenter: Segmenter) -> dict[str, int]:
    """MACs of an image by part; NotImplementedError for a part whose cost is not written down here yet."""
    parts = {
        "encoder": FORMS[type(segmenter.encoder)](segmenter.encoder),
        "completion": FORMS[type(segmenter.completion)](segmenter.completion, segmenter.encoder),
        "decoder": FORMS[type(segmenter.decoder)](segmenter.decoder, segmenter),
    }
    return {"total": sum(parts.values()), **parts}


def vit(encoder: ViTEncoder) -> int:
    spec, n = encoder.spec, encoder.spec.num_tokens
    macs = n * encoder.patch_embed.weight.numel()
    if encoder.stem is not None:
        macs += FORMS[type(encoder.stem)](encoder.stem, spec)
    if encoder.pyramid_embed is not None:
        macs += n * sum(projection.weight.numel() for projection in encoder.pyramid_embed.projections)
    for number in range(1, encoder.depth + 1):
        if encoder.reducer is not None and encoder.reducer.reenter_before == number:
            n = spec.num_tokens
        macs += block(spec.num_prefix + n, spec.dim) + (spec.num_prefix + n) * modern(encoder.blocks[number - 1])
        if isinstance(encoder.blocks[number - 1].attn, AdaptiveAttention):
            macs += n * spec.dim  # a threshold for every query of every head
        if encoder.reducer is not None and number in encoder.reducer.blocks:
            cost, n = FORMS[type(encoder.reducer)](encoder.reducer, n, spec.dim)
            macs += cost
    return macs + AFFINE_NORM * (spec.num_prefix + n) * spec.dim


def block(L: int, C: int) -> int:
    """Query, key, value and output; both attention products; an MLP four times as wide; two norms."""
    return 4 * L * C**2 + 2 * L**2 * C + 8 * L * C**2 + 2 * AFFINE_NORM * L * C


def modern(block: Block) -> int:
    """What an MLP of another form, and norms in MLP and attention, cost a token beside the plain block."""
    C, hidden = block.norm1.normalized_shape[0], block.mlp.fc1.out_features
    norms = sum(AFFINE_NORM * norm.normalized_shape[0] for norm in block.modules() if isinstance(norm, nn.LayerNorm))
    layers = 2 + (block.mlp.gated is not None)
    return layers * hidden * C - 8 * C**2 + norms - 2 * AFFINE_NORM * C


def stp(reducer: STP, n: int, C: int) -> tuple[int, int]:
    """The scorer on the n tokens alive, and how many stay."""
    cost = AFFINE_NORM * C + C * C + C * (C // 2) + (C // 2) * (C // 4) + C // 4
    return n * cost, keep_count(n, ratio=reducer.ratio, rounding=reducer.rounding)


def class_row(n: int, C: int) -> int:
    """One query, the class token's, on all keys once more: the fused kernel gives no weights."""
    return (1 + n) * C


def evit(reducer: EViT, n: int, C: int) -> tuple[int, int]:
    """The class token's attention; pruned inside the block, its MLP and second norm see only what stays."""
    kept = keep_count(n, ratio=reducer.ratio, rounding="ceil")
    kept += reducer.fuse and kept < n
    saved = (n - kept) * (8 * C**2 + AFFINE_NORM * C) if reducer.inside_block else 0
    return class_row(n, C) - saved, kept


def minscore(reducer: MinScore, n: int, C: int) -> tuple[int, int]:
    return class_row(n, C), keep_count(n, ratio=reducer.ratio, rounding=reducer.rounding)


def random(reducer: Random, n: int, C: int) -> tuple[int, int]:
    return 0, keep_count(n, ratio=reducer.ratio, rounding=reducer.rounding)


def dynamicvit(reducer: DynamicViT, n: int, C: int) -> tuple[int, int]:
    """STP's scorer with two logits; the count of the next stage is the first below n."""
    cost = AFFINE_NORM * C + C * C + C * (C // 2) + (C // 2) * (C // 4) + 2 * (C // 4)
    return n * cost, max((count for count in reducer.counts if count < n), default=n)


def tome(reducer: ToMe, n: int, C: int) -> tuple[int, int]:
    """Products of the keys of two halves; the sums of features, keys and sizes; the MLP sees only what stays."""
    D = C // reducer.spec.num_heads
    kept, left, cost = keep_count(n, ratio=reducer.ratio), n, 0
    while left > kept:
        r = min(left - kept, left // 2)
        cost += (left - left // 2) * (left // 2) * D + r * (left // 2) * (C + D + 1)
        left -= r
    return cost - (n - kept) * (8 * C**2 + AFFINE_NORM * C), kept


def cropr(reducer: Cropr, n: int, C: int) -> tuple[int, int]:
    """One product a token; the heads are of training alone."""
    return n * C, keep_count(n, ratio=reducer.ratio)


def final_count(encoder: ViTEncoder) -> int:
    """Tokens of the final set: all where the encoder brings dropped ones back."""
    n = encoder.spec.num_tokens
    if encoder.spec.restored:
        return n
    for _ in range(encoder.spec.num_stages):
        n = FORMS[type(encoder.reducer)](encoder.reducer, n, encoder.spec.dim)[1]
    return n


def dropped_norms(encoder: ViTEncoder) -> int:
    return AFFINE_NORM * (encoder.spec.num_tokens - final_count(encoder)) * encoder.spec.dim


def scatter(completion: Scatter, encoder: ViTEncoder) -> int:
    return dropped_norms(encoder)


def mta(completion: MTA, encoder: ViTEncoder) -> int:
    C, D, L = encoder.spec.dim, completion.restore.in_features, encoder.spec.num_prefix + encoder.spec.num_tokens
    return dropped_norms(encoder) + L * C * D + len(completion.blocks) * block(L, D) + AFFINE_NORM * L * D + L * D * C


def mim(completion: MIM, encoder: ViTEncoder) -> int:
    C, D, L = encoder.spec.dim, completion.restore.in_features, encoder.spec.num_prefix + encoder.spec.num_tokens
    given = encoder.spec.num_prefix + final_count(encoder)
    enter = given * (AFFINE_NORM * C + C * D)
    return enter + len(completion.blocks) * block(L, D) + AFFINE_NORM * L * D + L * D * C


def unetr(decoder: UNETR, segmenter: Segmenter) -> int:
    spec = segmenter.completion.spec
    C, f, ladder = spec.dim, decoder.head.conv.in_channels, Ladder(spec)
    levels, steps = decoder.num_skips + 1, ladder.steps
    voxels = [ladder.voxels(i) for i in range(levels + 1)]
    channels = [f * 2**i for i in range(levels)] + [C]

    def residual(level: int, cin: int, cout: int) -> int:
        """Two convolutions, of 3^d where no axis waits, a third of 1^d where the widths differ, a norm after each."""
        norms = PLAIN_NORM * (2 + (cin != cout)) * cout
        return voxels[level] * (ladder.kernel(level) * (cin + cout) * cout + (cin != cout) * cin * cout + norms)

    def doubling(level: int, cin: int, cout: int) -> int:
        """A transposed convolution whose kernel is its stride up to `level`: an input place meets the whole kernel."""
        return voxels[level] * cin * cout

    macs = residual(0, spec.in_channels, f) + voxels[0] * f * segmenter.num_classes
    for level in range(levels):
        out = channels[level]
        macs += doubling(level, channels[level + 1], out) + residual(level, 2 * out, out)
    for level, out in enumerate(channels[1:levels], start=1):
        if level == steps:
            macs += residual(level, C, out)
        else:
            macs += doubling(steps - 1, C, out)
            macs += sum(doubling(i, out, out) + residual(i, out, out) for i in range(level, steps - 1))
    return macs


def fcn(decoder: FCN, segmenter: Segmenter) -> int:
    """Two linears and a batch norm a token, and the interpolation."""
    N, C, h = segmenter.completion.spec.num_tokens, segmenter.completion.spec.dim, decoder.head.embed.out_features
    return N * (C * h + BATCH_NORM * h + h * segmenter.num_classes) + interpolation(segmenter)


def atm(decoder: ATM, segmenter: Segmenter) -> int:
    """Projection of the tokens; layers of class tokens among themselves and on the tokens; masks; classes."""
    N, C, Q = segmenter.completion.spec.num_tokens, segmenter.completion.spec.dim, segmenter.num_classes
    d = decoder.head.classify.in_features
    among = 4 * Q * d**2 + 2 * Q**2 * d
    on_tokens = 2 * Q * d**2 + 2 * N * d**2 + 2 * Q * N * d
    layer = among + on_tokens + 8 * Q * d**2 + 3 * AFFINE_NORM * Q * d
    macs = N * (C * d + AFFINE_NORM * d) + len(decoder.head.layers) * layer + Q * N * d + 2 * Q * d
    return macs + interpolation(segmenter)


def interpolation(segmenter: Segmenter) -> int:
    """To the image; fvcore counts the bilinear one only."""
    spec = segmenter.completion.spec
    return (spec.spatial_dims == 2) * BILINEAR * segmenter.num_classes * math.prod(spec.image_size)


def setr_pup(decoder: SETRPUP, segmenter: Segmenter) -> int:
    """A convolution and a norm at every resolution from the grid to half the image, then one of 1^d there."""
    spec = segmenter.completion.spec
    d, h, width, ladder = spec.spatial_dims, decoder.classify.in_channels, spec.dim, Ladder(spec)
    macs, voxels = interpolation(segmenter), spec.num_tokens
    for number in range(len(decoder.steps)):
        level = ladder.steps - number
        voxels = ladder.voxels(level)
        if number:
            macs += (d == 2) * BILINEAR * voxels * h
        macs += voxels * (ladder.kernel(level) * width * h + BATCH_NORM * h)
        width = h
    return macs + voxels * h * segmenter.num_classes


def patchwise(decoder: Patchwise, segmenter: Segmenter) -> int:
    """Rungs of a linear and a norm, the image's convolutions, the MLP where they meet, the step to the voxels."""
    spec = segmenter.completion.spec
    N, C, Q, ladder = spec.num_tokens, spec.dim, segmenter.num_classes, Ladder(spec)
    detail, hidden, W = decoder.detail[0].out_channels, decoder.join[1].out_features, decoder.head.in_channels
    cells, cell = ladder.voxels(1), ladder.factor(0)
    macs = N * (AFFINE_NORM * C + C * W)
    places, above = N, C
    for number, rung in enumerate(decoder.rungs, start=1):
        out, places = rung.norm.normalized_shape[0], ladder.voxels(ladder.steps - number)
        macs += places * above * out
        above = out
        macs += places * AFFINE_NORM * out
    assert (places, above) == (cells, W)
    macs += cells * (cell * spec.in_channels * detail + 2 * ladder.kernel(1) * detail**2 + AFFINE_NORM * detail)
    macs += cells * (AFFINE_NORM * (W + detail) + (W + detail) * hidden + hidden * W)
    return macs + cells * W * cell * Q


def primus(decoder: Primus, segmenter: Segmenter) -> int:
    """A linear layer from every place to its places one step finer and a norm there; the step to the voxels."""
    spec = segmenter.completion.spec
    ladder, above, macs = Ladder(spec), spec.dim, 0
    for number, rung in enumerate(decoder.rungs, start=1):
        out, places = rung.norm.normalized_shape[0], ladder.voxels(ladder.steps - number)
        macs += places * (above * out + AFFINE_NORM * out)
        above = out
    return macs + math.prod(spec.image_size) * above * segmenter.num_classes


def thin(decoder: Thin, segmenter: Segmenter) -> int:
    """At every resolution down to twice the grid: a step down, a convolution; a step up, a convolution.

    Then the step to the image, or the few channels there and the step to the classes.
    """
    spec = segmenter.completion.spec
    N, C, ladder = spec.num_tokens, spec.dim, Ladder(spec)
    widths = [down[0].out_channels for down in decoder.downs]
    above, macs = spec.in_channels, 0
    for level, width in enumerate(widths, start=1):
        voxels, kernel = ladder.voxels(level), ladder.kernel(level)
        macs += voxels * (ladder.factor(level - 1) * above * width + kernel * width**2 + AFFINE_NORM * width)
        # up to here, and together with the image
        macs += voxels * 2 * width * width + voxels * (kernel * width**2 + AFFINE_NORM * width)
        above = width
    macs += N * (AFFINE_NORM * C + C * decoder.enter[1].out_features)
    voxels, head = math.prod(spec.image_size), decoder.head.in_channels * segmenter.num_classes
    if decoder.whole is None:
        return macs + voxels * head
    # norms are in the convolutions: of 3^d taps, and after the sum of 3^(d - 1) and of 3; of 1 along axes that wait
    few, waits = decoder.whole.up.out_channels, [edge < max(spec.patch_size) for edge in spec.patch_size]
    first, others = 1 if waits[0] else 3, math.prod(1 if wait else 3 for wait in waits[1:])
    products = widths[0] + first * others * spec.in_channels + others * few + first * 2 * few
    return macs + voxels * (products * few + head)


def cup(decoder: CUP, segmenter: Segmenter) -> int:
    """Doublings to the image, two convolutions each, the first also on the pyramid's map where there is one."""
    spec = segmenter.completion.spec
    d, ladder, above = spec.spatial_dims, Ladder(spec), decoder.enter[0].out_channels
    skips = [*spec.pyramid_channels[::-1], *[0] * len(decoder.steps)]
    macs = conv_bn(spec.num_tokens, 3**d, spec.dim, above)
    for number, (step, skip) in enumerate(zip(decoder.steps, skips, strict=False), start=1):
        level, width = ladder.steps - number, step[1][0].out_channels
        voxels, kernel = ladder.voxels(level), ladder.kernel(level)
        macs += (d == 2) * BILINEAR * voxels * above
        macs += conv_bn(voxels, kernel, above + skip, width) + conv_bn(voxels, kernel, width, width)
        above = width
    return macs + voxels * kernel * above * segmenter.num_classes


def unet(decoder: UNet, segmenter: Segmenter) -> int:
    """Doublings to the finest map of the pyramid, two convolutions each; interpolation where that is not the image."""
    spec = segmenter.completion.spec
    d, ladder, widths = spec.spatial_dims, Ladder(spec), spec.pyramid_channels
    macs = spec.num_tokens * spec.dim * widths[-1]
    for number, place in enumerate(reversed(range(len(widths))), start=1):
        width, finer, level = widths[place], widths[max(place - 1, 0)], ladder.steps - number
        voxels, kernel = ladder.voxels(level), ladder.kernel(level)
        macs += (d == 2) * BILINEAR * voxels * width
        macs += conv_bn(voxels, kernel, 2 * width, width) + conv_bn(voxels, kernel, width, finer)
    macs += voxels * widths[0] * segmenter.num_classes
    return macs + (voxels < math.prod(spec.image_size)) * interpolation(segmenter)


class Forms(dict[type[nn.Module], Callable]):
    """By class; of a reducer (reducer, tokens alive n, width C) -> (its cost, tokens kept)."""

    def __missing__(self, kind: type[nn.Module]) -> Callable:
        raise NotImplementedError(f"write down what {kind.__name__} costs, in FORMS of {__file__}")


FORMS = Forms(
    {
        ViTEncoder: vit,
        STP: stp,
        EViT: evit,
        MinScore: minscore,
        Random: random,
        DynamicViT: dynamicvit,
        ToMe: tome,
        Cropr: cropr,
        Scatter: scatter,
        MTA: mta,
        MIM: mim,
        UNETR: unetr,
        FCN: fcn,
        Patchwise: patchwise,
        Primus: primus,
        Thin: thin,
        ATM: atm,
        SETRPUP: setr_pup,
        CUP: cup,
        UNet: unet,
        **STEMS,
    }
)
