"""The vision transformer, dense or sparse, with or without convolutions in front: one encoder for every method.

Letters: B batch, N tokens of the grid, n tokens alive, P prefix tokens (the class token), C width, S spatial size.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.base import Encoder
from sct.models.blocks.convolutions import PATCH_EMBEDDING
from sct.models.blocks.layers import AttentionStats, Block, Layout, init_weights, shrink_branches, sincos_positions
from sct.models.blocks.mlp import Activation, is_gated, make_dropout
from sct.models.blocks.rotary import rotary_table
from sct.models.grid import join, split, survival, unmerge, whole_grid
from sct.models.layout import layout_of
from sct.models.patch import patch_sizes, token_grid
from sct.models.placement import check_options, check_partition, check_pruning, check_stages, tap_blocks
from sct.models.reducers.base import Reducer
from sct.models.stems.base import Stem
from sct.models.stems.pyramid import PyramidEmbedding
from sct.models.tokens import Encoded, FeatureSpec, Tokens

logger = logging.getLogger(__name__)


class ViTEncoder(Encoder):
    """A ViT whose `reducer` drops tokens between its blocks; with no reducer it is the dense baseline.

    - `taps` are the blocks (counted from 1) whose dense outputs are kept for skip connections: a list of blocks, or a
      number of taps, which are spread as in the papers (3 of 12 blocks: 4, 7, 10; 2 of 12: 5, 9). A sparse encoder has
      no dense snapshots and no taps; every skip connection then reads the completed tokens.
    - `num_classes` and `overlapping` come from the data set's `Outputs`, for methods that predict inside the encoder.
    - Positions are learned. `position_init="sincos"` initialises them with sines and cosines of the place in the grid;
      "none" removes the positions.
    - `init_std` is the standard deviation of the initial weights of all linear layers. With the 0.02 of ViT-B the
      attention of a narrow encoder starts nearly uniform, and its loss falls slowly at first.
    - `transformer=false` is the identity control: embedding and positions without any block, for every `depth`.
    - A hybrid has a `stem` of convolutions. Every place of the stem's output is a patch, and the stem's pyramid goes to
      the decoder.
    - Where voxels are longer along one axis, fewer of them along it make a patch nearer to a cube: [8,8,4].
    - `rotary` rotates queries and keys by the place of their token. A merged token has the place of the token that the
      others were merged into; tokens without a place are not rotated.
    - `attention` replaces the plain attention of all blocks. `gate` decides from the stem's output which tokens are
      no queries in this attention (APFormer, and its pruning on other networks).

    patch_size: voxels of a patch: one number for all axes, or a list with one number for each axis, such as [8,8,4]
    dim: channels of a token (width)
    depth: number of transformer blocks
    num_heads: number of attention heads
    mlp_ratio: hidden channels of the MLP, as a multiple of dim
    qkv_bias: whether the projections to queries, keys and values have biases
    class_token: whether a class token is added to the patch tokens
    activation: activation of the MLP: gelu, relu, or swiglu (gated: a third linear layer)
    mlp_norm: whether the MLP has a LayerNorm before its last linear layer (EVA-02)
    attention_norm: whether attention has a LayerNorm before its last linear layer (EVA-02)
    layer_scale: initial factor of both branches of a block, learned for each channel, such as 0.1; null: no factors
    dropout: probability of dropout after the embedding and after the linear layers of the MLP
    drop_path: probability that the last block is skipped in training; it falls linearly to 0 at the first block
    norm_eps: epsilon of the LayerNorms
    taps: blocks whose dense outputs are kept for skip connections, or their number; a sparse encoder has no taps
    transformer: false: the identity control, without any transformer block
    position_init: initial values of the learned positions: normal, sincos (sines and cosines of the place), or none (no
        positions)
    rotary: whether queries and keys are rotated by the place of their token in the grid
    init_std: standard deviation of the initial weights of the linear layers
    depth_init: whether the last linear layers of attention and MLP in block i start divided by sqrt(2 i) (EVA-02)
    stem: convolutions before the transformer; null: no stem
    pyramid_embed: whether the stem's finer maps are projected to the tokens, too, with learned factors (Primus V3)
    gate: decides which tokens are no queries in attention (APFormer); null: all tokens are queries
    attention: replaces the attention of all blocks; null: plain attention
    reducer: the pruning method; null: dense, no token is pruned
    """

    rotary: Tensor | None
    no_weight_decay = ("class_token", "position")

    def __init__(
        self,
        *,
        image_size: Sequence[int],
        in_channels: int,
        num_classes: int = 0,
        overlapping: bool = False,
        patch_size: int | Sequence[int],
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        class_token: bool = True,
        activation: Activation = "gelu",
        mlp_norm: bool = False,
        attention_norm: bool = False,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
        taps: int | Sequence[int] = 0,
        transformer: bool = True,
        position_init: Literal["normal", "sincos", "none"] = "normal",
        rotary: bool = False,
        init_std: float = 0.02,
        depth_init: bool = False,
        stem: Callable[..., Stem] | None = None,
        pyramid_embed: bool = False,
        gate: Callable[..., nn.Module] | None = None,
        attention: Callable[..., nn.Module] | None = None,
        reducer: Callable[..., Reducer] | None = None,
    ) -> None:
        super().__init__()
        dims = len(image_size)
        patch = patch_sizes(patch_size, num_axes=dims)
        self.grid = token_grid(tuple(image_size), patch)
        self.depth = depth = depth if transformer else 0
        check_pruning(gate=gate, stem=stem, attention=attention, reducer=reducer, class_token=class_token)
        plain_only = {"rotary": rotary, "attention_norm": attention_norm} if attention is not None else {}
        check_options(init_std=init_std, plain_only=plain_only, pyramid_embed=pyramid_embed, stem=stem)
        if not depth and attention is not None:
            logger.warning("encoder.attention and encoder.gate are ignored: the encoder has no transformer block")
            attention = gate = None
        self.stem = stem(spatial_dims=dims, in_channels=in_channels, patch_size=patch) if stem is not None else None
        channels, embedded = in_channels, patch
        if self.stem is not None:
            channels, embedded = self.stem.out_channels, (1,) * dims
        self.patch_embed = PATCH_EMBEDDING[dims](channels, dim, kernel_size=embedded, stride=embedded)  # type: ignore[arg-type]
        maps = self.stem.pyramid_channels if pyramid_embed and self.stem is not None else ()
        self.pyramid_embed = PyramidEmbedding(maps, dim=dim, patch_size=patch) if maps else None
        self.gate = gate(spatial_dims=dims, in_channels=channels) if gate is not None else None
        self.dropout = make_dropout(dropout)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.num_prefix = int(class_token)
        num_tokens = torch.Size(self.grid).numel()
        self.position = None
        if position_init != "none":
            self.position = nn.Parameter(torch.zeros(1, self.num_prefix + num_tokens, dim))
        table = rotary_table(self.grid, head_dim=dim // num_heads) if rotary else None
        # not saved with the weights: grid and width of a head determine it
        self.register_buffer("rotary", table, persistent=False)
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks: Sequence[Block] = nn.ModuleList(  # type: ignore[assignment]
            Block(
                dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                activation=activation,
                mlp_norm=mlp_norm,
                layer_scale=layer_scale,
                attention_norm=attention_norm,
                dropout=dropout,
                drop_path=rate,
                norm_eps=norm_eps,
                attention=attention(dim, num_heads=num_heads, qkv_bias=qkv_bias, grid=self.grid) if attention else None,
            )
            for rate in rates
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.taps = () if reducer is not None else tap_blocks(taps, depth=depth)
        self.spec = FeatureSpec(
            image_size=tuple(image_size),
            in_channels=in_channels,
            patch_size=patch,
            dim=dim,
            num_heads=num_heads,
            num_prefix=self.num_prefix,
            num_taps=len(self.taps),
            pyramid_channels=self.stem.pyramid_channels if self.stem is not None else (),
            depth=depth,
            mlp_ratio=mlp_ratio,
            mlp_layers=2 + is_gated(activation),
            num_classes=num_classes,
            overlapping=overlapping,
            prunes_rows=gate is not None,
        )
        self.reducer = reducer(spec=self.spec) if reducer is not None else None
        # pruning stages whose sets of tokens were looked at once, in the first step of a training
        self.checked_stages: set[int] = set()
        if self.reducer is not None:
            check_stages(self.reducer, depth=depth, class_token=class_token)
            self.spec = replace(self.spec, num_stages=len(self.reducer.blocks), restored=self.reducer.restores)
        self.reset_parameters(position_init, std=init_std, depth_init=depth_init)
        if self.reducer is not None and self.reducer.freezes_encoder:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name.startswith("reducer."))

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; the parts of an encoder that its reducer freezes stay in evaluation mode.

        Frozen parts then have no drop-path and no dropout, and the statistics of their BatchNorms do not change.
        """
        super().train(mode)
        if self.reducer is not None and self.reducer.freezes_encoder:
            for name, part in self.named_children():
                part.train(mode and name == "reducer")
        return self

    def reset_parameters(self, position_init: str, *, std: float, depth_init: bool) -> None:
        self.apply(partial(init_weights, std=std))
        if depth_init:
            shrink_branches(self.blocks)
        if self.position is not None:
            nn.init.trunc_normal_(self.position, std=0.02)
            if position_init == "sincos":
                with torch.no_grad():
                    self.position[:, self.num_prefix :] = sincos_positions(self.grid, self.position.shape[2])
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=0.02)
        # the same initialisation as of a linear layer on flattened patches
        nn.init.xavier_uniform_(self.patch_embed.weight.flatten(1))
        if self.patch_embed.bias is not None:
            nn.init.zeros_(self.patch_embed.bias)

    def forward(self, image: Tensor) -> Encoded:
        """image (B, C_in, *S) -> sparse features; the last norm is applied to final tokens and prefix.

        UserError where the shape of the image is not the shape of a window.
        """
        expected = (self.spec.in_channels, *self.spec.image_size)
        if tuple(image.shape[1:]) != expected:
            raise UserError(
                f"The network takes windows (B, {', '.join(map(str, expected))}), but this window has shape "
                f"{tuple(image.shape)}. For a whole image use sct.load(RUN).predict(image), or an inferer."
            )
        features, pyramid = self.stem(image) if self.stem is not None else (image, [])
        x = self.embed(features, pyramid)
        B, P = x.shape[0], self.num_prefix
        index = torch.arange(x.shape[1] - P, device=x.device).expand(B, -1)
        tokens = Tokens(x[:, P:], index)
        encoded = Encoded(grid=self.grid, final=tokens, prefix=x[:, :P], pyramid=pyramid)
        if self.gate is not None:
            encoded.gate, encoded.query_mask = self.gate(features)
            encoded.aux["queries_pruned"] = 1 - encoded.query_mask.float().mean(dim=1)
        encoded.taps.extend([tokens.x] * self.taps.count(0))
        parents: list[Tensor] = []
        reduce = partial(self.reduce, encoded=encoded, parents=parents)
        if (reducer := self.reducer_at(0)) is not None:
            x, tokens = reduce(reducer, x, AttentionStats(), number=0, tokens=tokens)
        layout = self.layout(tokens, query_mask=encoded.query_mask)
        for number, block in enumerate(self.blocks, start=1):
            if self.reducer is not None and self.reducer.reenter_before == number:
                x, tokens = self.reenter(x, tokens=tokens, encoded=encoded)
                layout = self.layout(tokens)
            reducer = self.reducer_at(number)
            wants = reducer.wants if reducer is not None else ()
            x, stats = block.attend(x, layout, wants=wants)
            self.record(stats, number=number, encoded=encoded)
            if reducer is not None and reducer.inside_block:
                x, tokens = reduce(reducer, x, stats, number=number, tokens=tokens)
                layout = self.layout(tokens)
            x = block.feed(x, layout)
            if reducer is not None and not reducer.inside_block:
                x, tokens = reduce(reducer, x, stats, number=number, tokens=tokens)
                layout = self.layout(tokens)
            encoded.taps.extend([x[:, P:]] * self.taps.count(number))
        encoded.prefix, x = split(self.norm(x), tokens, num_prefix=P)
        encoded.final = replace(tokens, x=x)
        if self.reducer is not None:
            self.reducer.finish(encoded)
        if parents:
            encoded.final = unmerge(encoded.final, encoded.dropped, parents, num_tokens=self.spec.num_tokens)
        if self.spec.restored:
            encoded.survived = survival(encoded.dropped, num_tokens=self.spec.num_tokens)
            encoded.dropped = []
        return encoded

    def embed(self, features: Tensor, pyramid: Sequence[Tensor] = ()) -> Tensor:
        """Image (B, C_in, *S), or output and pyramid of a stem -> prefix and tokens with positions (B, P + N, C)."""
        x = self.patch_embed(features)
        if self.pyramid_embed is not None:
            x = x + self.pyramid_embed(pyramid)
        x = x.flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        return self.dropout(x + self.position if self.position is not None else x)

    def record(self, stats: AttentionStats, *, number: int, encoded: Encoded) -> None:
        """Adds the loss (mean over blocks) and the pruned share of attention in block `number` to `encoded`."""
        if stats.loss is not None:
            encoded.losses["attention"] = encoded.losses.get("attention", 0) + stats.loss / self.depth
        if stats.pruned is not None:
            encoded.aux[f"dependencies_pruned_{number}"] = stats.pruned

    def layout(self, tokens: Tokens, *, query_mask: Tensor | None = None) -> Layout:
        """Layout of the sequence of prefix and `tokens` for a block; query_mask (B, N) is the gate's decision."""
        if query_mask is not None:
            return Layout(query_mask=query_mask)
        masks = self.reducer.masks if self.reducer is not None else None
        return layout_of(tokens, num_prefix=self.num_prefix, masks=masks, rotary=self.rotary)

    def reducer_at(self, number: int) -> Reducer | None:
        """The reducer if it prunes at block `number`, else None; at 0 it prunes the embedding."""
        return self.reducer if self.reducer is not None and number in self.reducer.blocks else None

    def reduce(
        self,
        reducer: Reducer,
        x: Tensor,
        stats: AttentionStats,
        *,
        number: int,
        tokens: Tokens,
        encoded: Encoded,
        parents: list[Tensor],
    ) -> tuple[Tensor, Tokens]:
        """Prunes at block `number` -> the new sequence and its token set; the rest goes to `encoded` and `parents`."""
        prefix, patches = split(x, tokens, num_prefix=self.num_prefix)
        stats = stats.map_tokens(lambda values: split(values, tokens, num_prefix=self.num_prefix)[1])
        stage = reducer.blocks.index(number)
        reduction = reducer(replace(tokens, x=patches), stage=stage, stats=stats)
        looks = self.training and x.device.type != "meta" and not torch.compiler.is_compiling()
        if looks and stage not in self.checked_stages:
            check_partition(tokens, reduction, num_tokens=self.spec.num_tokens)
            self.checked_stages.add(stage)
        encoded.dropped.append(reduction.dropped)
        encoded.alive.append(reduction.live.count())
        if reduction.early_output is not None:
            encoded.early_outputs.append(reduction.early_output)
        if reduction.auxiliary is not None:
            encoded.auxiliary.append(reduction.auxiliary)
        if reducer.merges:
            assert reduction.parent is not None, "a reducer with merges=True must return Reduction.parent"
            parents.append(reduction.parent)
        if reduction.scores is not None:
            encoded.scores.append(reduction.scores)
        encoded.losses.update(reduction.losses)
        encoded.aux.update(reduction.aux)
        return join(prefix, reduction.live), reduction.live

    def reenter(self, x: Tensor, *, tokens: Tokens, encoded: Encoded) -> tuple[Tensor, Tokens]:
        """The sequence and the set of the whole grid; dropped tokens re-enter with the features that they had."""
        prefix, patches = split(x, tokens, num_prefix=self.num_prefix)
        sets = [*encoded.dropped, replace(tokens, x=patches)]
        tokens = whole_grid(sets, num_tokens=self.spec.num_tokens)
        encoded.alive.append(tokens.count())
        return join(prefix, tokens), tokens

    def layer_of(self, name: str) -> int:
        """Depth of a parameter for layer-wise decay: 0 embedding, i block i, depth + 1 after the blocks."""
        if name.startswith(("stem.", "gate.", "patch_embed.", "pyramid_embed.", "class_token", "position")):
            return 0
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return self.depth + 1
