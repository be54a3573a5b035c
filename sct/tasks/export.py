"""Export: writes the network of a run in a format for other programs and compares it with the original.

Letters: C channels, S size of the window (2 or 3 dims).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from sct.config.check import to_dict
from sct.config.requests import ExportConfig
from sct.config.trust import Trust
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.exporting import FORMATS, Format, Source
from sct.exporting.agreement import Agreement, compare
from sct.exporting.base import INPUT, OUTPUT
from sct.exporting.manifest import Manifest
from sct.inference.inputs import find_inputs
from sct.models.base import Encoder
from sct.profiling.windows import sample_windows
from sct.runs import card
from sct.runs.backends import check_precision, default_folder
from sct.runs.folder import log_to
from sct.runs.links import check_links
from sct.runs.run import Run, open_run
from sct.runtime import checkpoint
from sct.runtime.aside import aside
from sct.runtime.files import folder_digests, full_disk_told

logger = logging.getLogger(__name__)


def export(config: DictConfig) -> None:
    """Writes the network and export.json; UserError if export and original do not agree, and the files stay."""
    log_to(None)
    cfg = OmegaConf.to_object(config)
    assert isinstance(cfg, ExportConfig)
    form = pick_format(cfg)
    folder = empty_folder(Path(cfg.output) if cfg.output else run_folder(cfg, form=form))
    cpu = torch.device("cpu")
    run = open_run(
        cfg.ckpt,
        weights=cfg.weights,
        device="cpu",
        precision="fp32",
        changes={"data": cfg.data},
        trust=Trust.of_command(cfg),
    )
    network, data = run.network, run.data
    source = Source(
        network,
        data,
        run.config,
        batch=cfg.batch,
        half=cfg.half,
        authors=cfg.authors,
        postprocessing=run.postprocessing.settings(data.outputs),
        look=run.look.settings() if run.look else {},
    )
    check_graph(form, encoder=network.encoder)
    if form.fixed_graph and run.look is not None:
        logger.warning(
            "the export has no first look: it predicts every window, and its labels may differ from the run's where "
            "the first look leaves windows out. Windows of air can be skipped: inferer=fast inferer.skip_below=VALUE"
        )
    windows = real_windows(cfg, data=data)
    with whole_folder(folder) as unfinished:
        form.write(unfinished, source=source)
        model = form.load(unfinished, device=cpu, precision=cfg.precision, batch=cfg.batch)
        agreement = compare(model, network, windows, outputs=data.outputs)
        del model  # some systems can't rename a folder with open files
        passed = agreement.equal_labels >= cfg.agreement
        manifest = make_manifest(cfg, run=run, source=source, folder=unfinished, agreement=agreement, passed=passed)
        manifest.write(unfinished)
    logger.info("%s: %s", folder, agreement)
    if not passed:
        raise UserError(
            f"The export in {folder} does not agree with its original network: {agreement}. At least "
            f"agreement={cfg.agreement} of the labels must be equal. Try half=false, precision=fp32 or another format. "
            "If a network has hardly learned to score its tokens, all scores are nearly equal, and rounding decides "
            "which tokens it keeps. The exported files were not removed."
        )


def pick_format(cfg: ExportConfig) -> Format:
    """The export format of a config; UserError if it is unknown, lacks a package or does not support the settings."""
    if cfg.format not in FORMATS:
        raise UserError(f"format={cfg.format} is unknown: choose one of {', '.join(FORMATS)}.")
    form = FORMATS[cfg.format]
    form.require()
    check_precision(cfg.precision, name=form.name)
    if cfg.half and not form.holds_half:
        able = ", ".join(name for name, other in FORMATS.items() if other.holds_half)
        raise UserError(f"half=true: {form.name} stores 32 bits; {able} can store 16. Leave half out.")
    if cfg.batch is not None and not form.fixed_graph:
        raise UserError(f"batch={cfg.batch}: format={form.name} takes any number of windows. Leave batch out.")
    return form


def run_folder(cfg: ExportConfig, *, form: Format) -> Path:
    """The folder in that of the run; UserError where a link there leads elsewhere."""
    check_links(checkpoint.folder_of(checkpoint.find(cfg.ckpt, weights=cfg.weights)))
    return default_folder(cfg.ckpt, weights=cfg.weights, form=form.name)


def empty_folder(folder: Path) -> Path:
    """Returns the folder; UserError if it is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already. Remove it, or give output=FOLDER.")
    return folder


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives a folder beside `folder`, which takes its name when the block succeeds; else nothing is left.

    UserError if another process has made the folder meanwhile.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        aside(folder.parent) as temporary,
        full_disk_told(folder.parent),
    ):
        unfinished = temporary / folder.name
        unfinished.mkdir()
        yield unfinished
        empty_folder(folder)
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)


def check_graph(form: Format, *, encoder: Encoder) -> None:
    """UserError if a format records a fixed graph, but the encoder's work depends on the image."""
    if form.fixed_graph and encoder.by_image:
        setting = "encoder.gate" if encoder.reducer is None else f"encoder.reducer={type(encoder.reducer).__name__}"
        able = ", ".join(f"format={name}" for name, other in FORMATS.items() if not other.fixed_graph)
        raise UserError(
            f"{setting} keeps a different number of tokens for each image, but format={form.name} records a graph with "
            f"one fixed number. Choose {able}, which includes the program, or train a method that keeps a fixed share "
            "of the tokens, such as encoder=stp."
        )


def real_windows(cfg: ExportConfig, *, data: SegmentationData) -> Tensor:
    """Windows (cfg.windows, C, *S) from the images of `input`, or from the run's validation cases."""
    if cfg.input is not None:
        cases = find_inputs(Path(cfg.input), file_format=data.format)
        data.check_files(cases, remember=False)
    else:
        try:
            cases = data.cases("val")
        except UserError as error:
            raise UserError(
                f"{error} The export is checked on windows of real images: give data.root=FOLDER, or input=FILE with "
                "an image of this kind."
            ) from error
    return sample_windows(data, cases=cases, count=cfg.windows)


def make_manifest(
    cfg: ExportConfig, *, run: Run, source: Source, folder: Path, agreement: Agreement, passed: bool
) -> Manifest:
    """The manifest of what was exported to `folder`."""
    data, outputs = source.data, source.data.outputs
    return Manifest(
        format=cfg.format,
        roi_size=list(data.roi_size),
        channels=data.num_channels,
        batch=cfg.batch,
        precision=cfg.precision,
        inputs={INPUT: [cfg.batch, *source.window]},
        outputs={OUTPUT: [cfg.batch, outputs.num_channels, *data.roi_size]},
        labels=list(outputs.legend),
        channels_out=list(outputs.names if outputs.overlapping else outputs.legend),
        overlapping=outputs.overlapping,
        config=to_dict(source.config),
        weights=card.weights_digest(source.network.state_dict()),
        checkpoint=str(run.source),
        step=checkpoint.load(run.source)["step"],
        card=card.read_card(run.folder) if (run.folder / card.FILE).exists() else None,
        versions=card.versions(FORMATS[cfg.format].packages),
        check={**asdict(agreement), "wanted": cfg.agreement, "passed": passed},
        postprocessing=run.postprocessing.settings(outputs),
        files=folder_digests(folder),
    )
