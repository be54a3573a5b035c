"""The kind `picture`: a photograph or a mask of any kind of file, up to its written mask."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from fuzzing.kind import Change, Kind
from fuzzing.picture_files import draw_changes, draw_file, file_bytes, levels_of, png_levels
from sct.data.cases import Case, LabelMap
from sct.data.check import check_cases
from sct.data.formats.pictures import Pictures
from sct.errors import UserError

# turns and mirrors by EXIF's code
UPRIGHT = {3: lambda a: a[::-1, ::-1], 6: lambda a: np.rot90(a, -1), 8: lambda a: np.rot90(a), 5: lambda a: a.T}
SUFFIXES = {"jpg": ".jpg", "tif": ".tif"}


def judge(folder: Path, base: dict, changes: list[Change]) -> list[str]:
    """A picture as image, or as image and mask, through the check, and its written mask."""
    data, form = file_bytes(base, changes), Pictures(2)
    path = folder / f"x{SUFFIXES.get(base['kind'], '.png')}"
    path.write_bytes(data)
    label_map = LabelMap(("background", "a"))
    case = Case("x", path, path if base["mask"] else None)
    try:
        check_cases([case], label_map=label_map, num_channels=3, file_format=form, memory=None)
        found, grid = form.read_image(path)
    except UserError:
        if not changes and not is_honest(base, data):
            return []
        raise
    problems = []
    if form.read_grid(path).shape != grid.shape:
        problems.append("the header alone says another size")
    back = form.read_label(form.save_labels(folder / "out" / "x", (found[0] > 127).astype(np.uint8), like=path))[0]
    if not np.array_equal(back, found[0] > 127):
        problems.append("the written mask differs")
    return problems + compared(found, data, base=base, intact=not changes)


def is_honest(base: dict, data: bytes) -> bool:
    """Whether sct reads the picture without changes."""
    with Image.open(io.BytesIO(data)) as image:
        kinds = ("1", "L") if base["mask"] else ("RGB", "L", "RGBA")
        good = image.mode in kinds and not (base["mask"] and image.mode not in ("RGB", "L", "RGBA"))
        return good and (not base["mask"] or image.format in ("PNG", "TIFF", "BMP"))


def compared(found: np.ndarray, data: bytes, *, base: dict, intact: bool) -> list[str]:
    """What sct read (3, H, W) against a decoder of our own (PNG), or against what was drawn."""
    levels = levels_of(base)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        truth = png_levels(data)
        if isinstance(truth, str):
            return [f"accepted, but {truth}"] if "another" not in truth else []
        count = truth.shape[1] / (found.shape[2] if len(set(found.shape[1:])) == 1 else max(1, found.shape[2]))
        if count not in (1, 3, 4) or truth.shape[0] != found.shape[1]:
            return []  # turned by EXIF: compared below where it is intact
        pixels = truth.reshape(*found.shape[1:], int(count))[..., :3] if truth.size == found[0].size * count else None
        turned = base["exif"] in UPRIGHT
        if (
            pixels is not None
            and not turned
            and not np.array_equal(found, np.broadcast_to(np.moveaxis(pixels, -1, 0), found.shape))
        ):
            return ["pixels differ from the standard's"]
    if intact and base["mode"] in ("RGB", "L", "1") and base["kind"] in ("png", "tif", "bmp"):
        turn = UPRIGHT.get(base["exif"], lambda a: a) if base["kind"] != "bmp" else (lambda a: a)
        if not np.array_equal(found[0], turn(levels)):
            return ["an intact picture differs"]
    return []


KINDS = {"picture": Kind(lambda rng: (draw_file(rng), draw_changes(rng)), judge)}
