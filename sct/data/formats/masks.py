"""Pictures whose masks have a value for each class: a grey value, an index of a palette, or a colour.

Legend: H, W rows and columns of a mask.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sct.data.cases import Grid
from sct.data.formats.base import FileFormat
from sct.data.formats.decoding import decode
from sct.data.formats.pictures import Pictures, grid_of
from sct.errors import UserError
from sct.runtime.files import atomic

# masks are stored without loss
MASK_ENDINGS = (".png", ".tif", ".tiff", ".bmp")
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_SHOWN = 5


@dataclass(frozen=True)
class CodedPictures(Pictures):
    """RGB pictures with masks that are called as their picture, `mask_suffix` and an ending.

    codes: of each class in turn, all whole numbers (grey values or indices of a palette) or all colours '#rrggbb'
    palette: colours of the palette that written masks get, by index; empty: they are grey
    """

    codes: tuple[int, ...] | tuple[str, ...]
    mask_suffix: str = ""
    palette: tuple[str, ...] = ()

    @property
    def label_suffix(self) -> str:  # type: ignore[override]
        return f"{self.mask_suffix}.png"

    def is_image(self, path: Path) -> bool:
        is_mask = bool(self.mask_suffix) and self.stem(path).endswith(self.mask_suffix)
        return FileFormat.is_image(self, path) and not is_mask

    def read_label(self, path: Path) -> tuple[np.ndarray, Grid]:
        image = decode(path)
        values = self._colours(image, path) if self.has_colours else self._numbers(image, path)
        grid = grid_of(image, num_channels=1)
        labels = np.full(values.shape, -1, dtype=np.float32)
        for label, code in enumerate(self._wanted):
            labels[values == code] = label
        if unknown := np.unique(values[labels < 0]).tolist():
            shown = ", ".join(self._shown(value) for value in unknown[:_SHOWN]) + " ..." * (len(unknown) > _SHOWN)
            known = ", ".join(map(str, self.codes))
            raise UserError(
                f"{path}: has {len(unknown)} value(s) that stand for no class ({shown}); data.values has "
                f"{known}. Name them there; or the mask was scaled or stored with loss: restore it."
            )
        return labels, grid

    def write_labels(self, path: Path, labels: np.ndarray, *, like: Path) -> None:
        codes = np.array(self._wanted, dtype=np.int64)[labels]
        if self.has_colours:
            image = Image.fromarray(np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype(np.uint8))
        else:
            image = Image.fromarray(codes.astype(np.uint8 if max(self._wanted) < 256 else np.uint16))
        if self.palette:
            image.putpalette([part for colour in self.palette for part in bytes.fromhex(colour[1:])])
        with atomic(path) as temporary:
            image.save(temporary)

    @property
    def has_colours(self) -> bool:
        return isinstance(self.codes[0], str)

    @property
    def _wanted(self) -> list[int]:
        """The codes as numbers; of a colour red comes first."""
        return [int(code[1:], 16) if isinstance(code, str) else code for code in self.codes]

    def _shown(self, value: int) -> str:
        return f"#{value:06x}" if self.has_colours else str(value)

    def _colours(self, image: Image.Image, path: Path) -> np.ndarray:
        """Colours (H, W) as numbers."""
        if image.mode not in ("RGB", "P", "L", "1", "RGBA"):
            raise UserError(f"{path}: is a mask of mode {image.mode}, not of colours. Convert it to RGB.")
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), dtype=np.int64), -1, 0)
        return red << 16 | green << 8 | blue

    def _numbers(self, image: Image.Image, path: Path) -> np.ndarray:
        """Grey values or indices of the palette (H, W)."""
        if image.mode not in ("P", "L", "1", "I;16"):
            raise UserError(
                f"{path}: is a mask of mode {image.mode}, not of grey values or a palette. Give data.values "
                "colours such as '#ff0000', or convert the mask."
            )
        return np.asarray(image.convert("L") if image.mode == "1" else image, dtype=np.int64)


def palette_of(path: Path) -> list[str]:
    """The colours of a mask's palette, by index; of a grey mask none."""
    image = decode(path)
    parts = (image.getpalette() or []) if image.mode == "P" else []
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in zip(*[iter(parts)] * 3, strict=True)]


def check_codes(codes: Sequence[object]) -> tuple[int, ...] | tuple[str, ...]:
    """The codes of the classes; UserError unless they differ and are all whole numbers, or all colours."""
    numbers = tuple(code for code in codes if isinstance(code, int) and 0 <= code < 2**16)
    colours = tuple(code.lower() for code in codes if isinstance(code, str) and COLOUR.fullmatch(code))
    found = numbers or colours
    if len(set(found)) != len(codes):
        raise UserError(
            f"data.values has {', '.join(map(str, codes))}: give each class another value, all of them grey values or "
            "indices of a palette (whole numbers), or all of them colours such as '#ff0000'."
        )
    return found
