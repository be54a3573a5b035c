"""Is the time of attention and MLP proportional to the cost of the kept tokens? Tests images with different numbers.

    python scripts/benchmark_ragged.py --threads 1            # 120, 300, 700, 1500 of 1728 tokens, width 384
    python scripts/benchmark_ragged.py --threads 1 --dim 768 --depth 1 --repeats 3

The same blocks run on each image alone, on the images packed one after another (as in evaluation), on the images
padded to the longest one with a mask, and dense with all tokens. The runs take turns, so that other load on the machine
affects all of them; medians are compared. The cost of n tokens (class token included) is the closed form of the blocks:
4 C^2 n + 2 C n^2 + 8 C^2 n multiply-accumulates.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from sct.models.blocks.layers import Block, Layout
from sct.models.reducers.asvit import block_macs
from sct.profiling.timing import Stopwatch, device_name


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kept", type=int, nargs="+", default=[120, 300, 700, 1500], help="tokens kept for each image")
    parser.add_argument("--tokens", type=int, default=1728, help="tokens of the full grid")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--heads", type=int, help="default: one for every 64 channels")
    parser.add_argument("--depth", type=int, default=2, help="blocks")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--half", action="store_true", help="bf16; on CUDA, packed images then share one kernel")
    return parser.parse_args(argv)


def forward(blocks: Sequence[Block], x: Tensor, lengths: tuple[int, ...] | None = None) -> Tensor:
    """Runs all blocks on x (B, L, C), or on packed images (1, T, C) with `lengths`."""
    for block in blocks:
        x = block(x, Layout(lengths=lengths))
    return x


def padded(blocks: Sequence[Block], x: Tensor, mask: Tensor) -> Tensor:
    """Runs all blocks on x (B, L, C), padded to the longest image, with a mask (B, 1, 1, L) of the real tokens."""
    B, L, C = x.shape
    for block in blocks:
        qkv = block.attn.qkv(block.norm1(x)).reshape(B, L, 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        context = nn.functional.scaled_dot_product_attention(*qkv, attn_mask=mask)
        x = block.feed(x + block.attn.proj(context.transpose(1, 2).reshape(B, L, C)))
    return x


def build(options: argparse.Namespace) -> tuple[dict[str, Callable[[], Tensor]], dict[str, float]]:
    """The runs by name, and their MACs; for the padded batch, only the MACs of the kept tokens."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if options.half else torch.float32
    heads = options.heads or options.dim // 64
    blocks = [Block(options.dim, num_heads=heads).to(options.device, dtype).eval() for _ in range(options.depth)]
    # with the class token
    lengths, full = tuple(count + 1 for count in options.kept), options.tokens + 1
    new = partial(torch.randn, device=options.device, dtype=dtype)
    images = [new(1, length, options.dim) for length in lengths]
    batch = torch.cat([nn.functional.pad(image, (0, 0, 0, max(lengths) - image.shape[1])) for image in images])
    mask = torch.arange(max(lengths), device=options.device) < torch.tensor(lengths, device=options.device)[:, None]
    runs = {
        f"image {i} alone, {count}": partial(forward, blocks, image)
        for i, (count, image) in enumerate(zip(options.kept, images, strict=True), start=1)
    }
    runs |= {
        "packed": partial(forward, blocks, torch.cat(images, dim=1), lengths),
        "padded, masked": partial(padded, blocks, batch, mask[:, None, None]),
        "dense": partial(forward, blocks, new(len(lengths), full, options.dim)),
    }
    costs = [options.depth * block_macs(length, dim=options.dim) for length in lengths]
    packed, dense = sum(costs), options.depth * len(lengths) * block_macs(full, dim=options.dim)
    return runs, dict(zip(runs, [*costs, packed, packed, dense], strict=True))


def table(times: dict[str, float], costs: dict[str, float]) -> str:
    """Median time, cost, both as shares of dense, and the ratio of these shares (1: time is proportional to cost)."""
    lines = [f"{'':<22}{'ms':>9}{'GMACs':>9}{'time share':>12}{'cost share':>12}{'time / cost':>13}"]
    for name, time in times.items():
        time_share, cost_share = time / times["dense"], costs[name] / costs["dense"]
        shares = f"{time_share:>12.3f}{cost_share:>12.3f}{time_share / cost_share:>13.2f}"
        lines.append(f"{name:<22}{time:>9.1f}{costs[name] / 1e9:>9.2f}{shares}")
    separate = sum(time for name, time in times.items() if name.startswith("image"))
    lines.append(f"packed / sum of the images alone: {times['packed'] / separate:.2f}")
    return "\n".join(lines)


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    runs, costs = build(options)
    device = torch.device(options.device)
    watch = Stopwatch(device)
    for number in range(options.warmup + options.repeats):
        if number == options.warmup:
            watch = Stopwatch(device)
        for name, run in runs.items():
            watch.time(name, run)
    setting = {**vars(options), "threads": torch.get_num_threads(), "device_name": device_name(device)}
    print(", ".join(f"{name}={value}" for name, value in setting.items() if value is not None))
    print(table({name: median(samples) for name, samples in watch.samples.items()}, costs))


if __name__ == "__main__":
    main()
