"""Pictures: RGB photographs as JPEG, PNG or TIFF, with masks as grey PNG.

Legend: H, W rows and columns; a picture is (3, H, W), a mask (H, W). What a camera wrote about its orientation (EXIF)
is applied, to pictures and masks: H and W are those of the upright picture, on which its mask is drawn.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sct.data.cases import Grid
from sct.data.formats.base import FileFormat
from sct.data.formats.decoding import READ, UPRIGHT, decode, orientation
from sct.errors import UserError
from sct.runtime.files import atomic


@dataclass(frozen=True)
class Pictures(FileFormat):
    """RGB pictures and grey masks, named as the ISIC challenge names them: ID.jpg and ID_segmentation.png.

    num_classes: of two the mask holds 0 and 255 (read, 1 does for 255); of more it holds the class indices
    Grey pictures, and those with an opaque alpha channel, are read as RGB; every other kind is refused.
    """

    num_classes: int
    name = "picture"
    suffixes = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
    label_suffix = "_segmentation.png"

    def remark(self, image: Path) -> str | None:
        with Image.open(image, formats=READ) as picture:
            if orientation(picture) == UPRIGHT:
                return None
        return "turned upright as the camera says (EXIF orientation); the mask must be drawn on the upright picture"

    def label_endings(self, *, like: Path) -> tuple[str, ...]:
        return (self.label_suffix, ".png")  # without loss

    def read_grid(self, path: Path) -> Grid:
        return grid_of(decode(path, pixels=False), num_channels=3)

    def read_image(self, path: Path) -> tuple[np.ndarray, Grid]:
        image = decode(path)
        opaque = image.mode != "RGBA" or image.getextrema()[-1] == (255, 255)
        if image.mode not in ("RGB", "L", "RGBA") or not opaque:
            kind = f"mode {image.mode}" if opaque else "transparent pixels"
            raise UserError(f"{path}: is a picture with {kind}; expected RGB or grey, 8 bit. Convert it to RGB.")
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)), grid_of(image, num_channels=3)

    def read_label(self, path: Path) -> tuple[np.ndarray, Grid]:
        image = decode(path)
        if image.mode not in ("1", "L"):
            raise UserError(f"{path}: is a mask of mode {image.mode}; expected one grey channel of 8 bit. Convert it.")
        mask = np.asarray(image.convert("L"))
        grid = grid_of(image, num_channels=1)
        if self.num_classes == 2:
            levels = np.unique(mask)
            if not (set(levels) <= {0, 255} or set(levels) <= {0, 1}):
                raise UserError(
                    f"{path}: has {len(levels)} grey level(s) ({', '.join(map(str, levels[:5]))} ...); a mask has two, "
                    "0 and 255. It was scaled or stored with loss: restore the original, or threshold it."
                )
            mask = mask > 0
        return mask.astype(np.float32), grid

    def write_labels(self, path: Path, labels: np.ndarray, *, like: Path) -> None:
        with atomic(path) as temporary:
            Image.fromarray((labels * (255 if self.num_classes == 2 else 1)).astype(np.uint8)).save(temporary)

    def is_image(self, path: Path) -> bool:
        # The challenge's input folder also holds superpixels, and predictions may lie beside their images.
        return super().is_image(path) and not path.stem.endswith(("_superpixels", "_segmentation"))


def grid_of(image: Image.Image, *, num_channels: int) -> Grid:
    return Grid((image.height, image.width), num_channels, np.eye(4), unit="voxel")
