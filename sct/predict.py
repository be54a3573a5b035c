"""`python -m sct.predict ckpt=RUN input=FILE_OR_FOLDER output=FOLDER`: label maps for NIfTI images."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from sct import cli
from sct.data.cases import Case
from sct.distributed import pick_device
from sct.errors import UserError
from sct.factory import build_inferer, load_trained
from sct.inference import predict_volume, save_label_map
from sct.precision import autocast, precision_dtype
from sct.run import log_to

logger = logging.getLogger(__name__)

SUFFIXES = (".nii.gz", ".nii")


def predict(cfg: DictConfig) -> None:
    """Writes one label map per input, on the grid and with the affine of its input, never over an input."""
    log_to(None)
    device = pick_device(cfg.device)
    cases, output = find_inputs(Path(cfg.input)), Path(cfg.output)
    taken = [case.image for case in cases if target(output, case).resolve() == case.image.resolve()]
    if taken:
        raise UserError(f"output={output} would overwrite the input {taken[0]}; give another folder.")
    changes = {"inferer": OmegaConf.to_container(cfg.inferer)}
    run_cfg, data, segmenter = load_trained(cfg.ckpt, weights=cfg.weights, changes=changes, device=device)
    data.check_files(cases)
    dtype = precision_dtype(cfg.precision or run_cfg.trainer.precision, key="precision")
    inferer = build_inferer(run_cfg)
    for case in cases:
        volume = data.load_case(case)
        with autocast(device, dtype):
            labels = predict_volume(
                segmenter, volume, inferer, roi_size=data.roi_size, num_classes=data.num_classes, device=device
            )
        save_label_map(target(output, case), labels, like=case.image)
        logger.info("%s -> %s", case.image, target(output, case))


def target(output: Path, case: Case) -> Path:
    return output / f"{case.id}.nii.gz"


def find_inputs(path: Path) -> list[Case]:
    """The NIfTI file, or all of a folder, as cases without label."""
    if not path.exists():
        raise UserError(f"input={path} does not exist. Give a NIfTI file or a folder of them.")
    files = [path] if path.is_file() else sorted(path.iterdir())
    files = [file for file in files if file.name.endswith(SUFFIXES) and not file.name.startswith(".")]
    if not files:
        raise UserError(f"input={path} holds no NIfTI file ({' or '.join(SUFFIXES)}).")
    cases = [Case(id=file.name.removesuffix(".gz").removesuffix(".nii"), image=file, label=None) for file in files]
    doubles = {case.id for case in cases if [other.id for other in cases].count(case.id) > 1}
    if doubles:
        raise UserError(f"input={path} holds {sorted(doubles)[0]} as .nii and as .nii.gz; remove one of them.")
    return cases


def main() -> None:
    cli.run(predict, config_name="predict", open_groups=("inferer",))


if __name__ == "__main__":
    main()
