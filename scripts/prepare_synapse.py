"""Prepares the Synapse files (data=synapse) from the raw BTCV download, in the same way as TransUNet.

python scripts/prepare_synapse.py PATH/BTCV data/synapse

PATH/BTCV must have RawData/Training/img and RawData/Training/label. Intensities are clipped to [-125, 275] HU and
scaled to [0, 1]; 8 of the 13 organs are kept. Slices go from feet to head, rows from front to back, columns from the
patient's right to the left. The spacing is stored, so distances are measured in mm.
"""

import argparse
import logging
import sys
from pathlib import Path

from sct.data.sets.synapse_conversion import prepare
from sct.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", metavar="RAW", type=Path, help="the folder that contains RawData")
    parser.add_argument("out", metavar="OUT", type=Path, help="a new folder for the set (data.root)")
    parser.add_argument(
        "--split",
        default="published",
        help="published: 18 patients for training, 12 for testing; all: every patient for both (overfitting on "
        "purpose); train or test: every patient for this split only; or a JSON file with lists `train` and `test`",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prepare(args.raw, args.out, split=args.split)
    except UserError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
