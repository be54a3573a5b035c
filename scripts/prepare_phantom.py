"""Writes the phantom CTs that `data=phantom` uses; a training also writes them if they are missing.

python scripts/prepare_phantom.py --root data/phantom
"""

import argparse
import logging
import sys
from pathlib import Path

from sct.data.phantoms.phantom import PhantomSpec, write_phantoms
from sct.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder for the sets (data.root)")
    parser.add_argument("--num-train", type=int, default=24)
    parser.add_argument("--num-val", type=int, default=4)
    parser.add_argument("--num-test", type=int, default=6)
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 64, 48), help="voxels")
    parser.add_argument("--voxel-size", type=float, nargs=3, default=(2.0, 2.0, 3.0), help="mm")
    parser.add_argument("--scale", type=float, default=1.0, help="of the anatomy; 2.6 is an adult's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lookalikes", action="store_true", help="the harder kind, with organs that look alike")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    spec = PhantomSpec(
        num_train=args.num_train,
        num_val=args.num_val,
        num_test=args.num_test,
        shape=args.shape,
        voxel_size=args.voxel_size,
        seed=args.seed,
        lookalikes=args.lookalikes,
        scale=args.scale,
    )
    folder = args.root / ("lookalikes" if args.lookalikes else "organs")
    try:
        write_phantoms(folder, spec=spec)
    except UserError as error:
        sys.exit(f"error: {error}")
    logging.info("phantoms are in %s", folder)


if __name__ == "__main__":
    main()
