"""Texts of a bundle: README and LICENSE."""

from sct.exporting.base import Source
from sct.runtime.version import __version__


def readme(source: Source) -> str:
    """The README: how to run the bundle, and what it writes."""
    data, outputs = source.data, source.data.outputs
    values = "\n".join(f"| {value} | {name} |" for value, name in enumerate(outputs.legend))
    suffixes = " or ".join(data.format.suffixes)
    return f"""# {source.config.name}

A network trained with sct {__version__} on {type(data).__name__}, as a MONAI Bundle. It needs sct, MONAI and `fire`:

```bash
python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_dir PREDICTIONS
```

Run this command in this folder, or add `--bundle_root` with the folder's path. IMAGES is a file or a folder of
{data.format.name} files ({suffixes}), {data.num_channels} channel(s) each. Images are resampled and normalized as in
training, and label maps are written on the grid of their image:

| value | meaning |
|---|---|
{values}

Any value of `configs/inference.json` can be changed, for example `--inferer#overlap 0.25`. The config names classes
and expressions that MONAI runs: use bundles only from people you trust.

Research software, not a medical device.
"""


def license_text(source: Source) -> str:
    """The LICENSE: the terms of the code; the terms of the weights are not known here."""
    return f"""The programs that this bundle runs, sct and MONAI, are under the Apache License 2.0
(https://www.apache.org/licenses/LICENSE-2.0).

The weights in models/ were trained on {type(source.data).__name__}. Authors of the weights: {source.authors}. The terms
of the data set may also apply to the weights. If you pass this bundle on, state here under which terms the weights may
be used.
"""
