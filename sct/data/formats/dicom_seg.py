"""Label maps as DICOM SEG, written by highdicom (extra `dicom`): a segment for each class, on the slices of a series.

Letters: K slices, H rows, W columns.
"""

import colorsys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sct.data.formats.dicom_series import Series
from sct.errors import UserError
from sct.runtime.extras import install_command
from sct.runtime.files import atomic
from sct.runtime.version import __version__

INSTALL = install_command("dicom")
SEG_ENDING = ".dcm"
MAKER, MODEL = "sct", "sparse completion transformer"
# SNOMED CT codes, as (code, meaning), of what the shipped data sets name; the label of a segment says which side
KIDNEY, ADRENAL = ("64033007", "Kidney"), ("23451007", "Adrenal gland")
ORGANS = {
    "spleen": ("78961009", "Spleen"),
    "right_kidney": KIDNEY,
    "left_kidney": KIDNEY,
    "gallbladder": ("28231008", "Gallbladder"),
    "esophagus": ("32849002", "Esophagus"),
    "liver": ("10200004", "Liver"),
    "stomach": ("69695003", "Stomach"),
    "aorta": ("15825003", "Aorta"),
    "inferior_vena_cava": ("64131007", "Inferior vena cava"),
    "pancreas": ("15776009", "Pancreas"),
    "right_adrenal": ADRENAL,
    "left_adrenal": ADRENAL,
}
STRUCTURE = ("91723000", "Anatomical Structure")
SNOMED, OWN_SCHEME = "SCT", "99SCT"


def highdicom(path: Path) -> ModuleType:
    """The package, or UserError that says how to install it for labels of `path`."""
    try:
        import highdicom.seg
    except ImportError as error:
        raise UserError(
            f"{path}: DICOM SEG needs the package highdicom, which is not installed. Install it with: {INSTALL}"
        ) from error
    return highdicom


def save_seg(path: Path, labels: np.ndarray, *, series: Series, names: Sequence[str]) -> None:
    """Write labels (W, H, K) of a series; `names` by value, the first of them the background."""
    package = highdicom(path)
    import pydicom

    sources = [pydicom.dcmread(file, stop_before_pixels=True) for file in series.paths]
    for source in sources:
        # highdicom asks for it, and a scanner may leave it out
        source.SliceThickness = source.get("SliceThickness") or series.distance
    try:
        written = package.seg.Segmentation(
            source_images=sources,
            pixel_array=np.ascontiguousarray(labels.reshape(series.shape).T, dtype=np.uint16),
            segmentation_type="BINARY",
            segment_descriptions=[
                segment(package, number=value, name=name, count=len(names) - 1)
                for value, name in enumerate(names)
                if value
            ],
            series_instance_uid=package.UID(),
            series_number=1000,
            sop_instance_uid=package.UID(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=MODEL,
            software_versions=__version__,
            device_serial_number="0",
            content_label="SEGMENTATION",
            series_description="Segmentation by sct",
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: no DICOM SEG can be written of {series.paths[0].parent} ({type(error).__name__}: {error}). Its "
            "slices lack what DICOM demands: choose format=nifti, nrrd or mha."
        ) from error
    with atomic(path) as temporary:
        written.save_as(temporary)


def segment(package: ModuleType, *, number: int, name: str, count: int) -> Any:
    """What a class is called in DICOM: by SNOMED where its name is a known organ, else in a scheme of our own."""
    code, meaning = ORGANS.get(name.lower().replace(" ", "_"), (None, name))
    concept = package.sr.CodedConcept
    kind = concept(code, SNOMED, meaning) if code else concept(f"CLASS{number}", OWN_SCHEME, name[:64])
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb((number - 1) / max(1, count), 0.75, 0.95))
    return package.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=concept(STRUCTURE[0], SNOMED, STRUCTURE[1]),
        segmented_property_type=kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=package.AlgorithmIdentificationSequence(
            name=MAKER, version=__version__, family=concept("123110", "DCM", "Artificial Intelligence")
        ),
        display_color=package.color.CIELabColor.from_rgb(red, green, blue),
    )
