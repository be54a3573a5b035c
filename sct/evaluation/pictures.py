"""Pictures of an image, its labels and the depth to which each patch was kept. Pillow only.

Legend: C channels, S spatial size. 3-D arrays are in RAS order and shown as an axial slice in radiological
convention (front up, the patient's right on the left); 2-D arrays (H, W), and slices of volumes that a 2-D network
sees slice by slice (slices first), are shown as they are.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sct.runtime.files import atomic

# Okabe and Ito's palette, distinct in the common kinds of colour blindness, then seven that differ from it in
# lightness as well as in hue. Red is left to the pruning depth.
PALETTE = np.array(
    [
        (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (204, 121, 167),
        (213, 94, 0), (136, 102, 221), (187, 204, 51), (136, 80, 40), (255, 175, 195), (120, 240, 210),
        (119, 119, 0), (205, 205, 205),
    ],
    dtype=np.float64,
)  # fmt: skip
SHADES = np.array([(254, 187, 161), (203, 24, 29), (90, 0, 10)], dtype=np.float64)  # few stages to all of them

BACKGROUND, INK, FAINT = (255, 255, 255), (25, 25, 25), (110, 110, 110)
PANEL_HEIGHT, MARGIN, TITLE, LINE = 400, 14, 30, 22


def overlay(
    image: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    depth: np.ndarray | None = None,
    num_stages: int = 0,
    index: int | None = None,
    spacing: Sequence[float] | None = None,
    height: int | None = None,
) -> np.ndarray:
    """One slice as uint8 (H, W, 3): image (C, *S) tinted by labels (*S) and depth (*grid) in 0..num_stages.

    `index` is the axial slice, the one with most foreground if None; `spacing` makes the pixels square and
    `height` sets the size in pixels (at least one pixel per voxel otherwise).
    """
    if index is None:
        index = busiest_slice(labels) if labels is not None else image.shape[-1] // 2
    # three channels of a photograph are its colours, which one window keeps; those of a scan are sequences
    is_photograph = image.ndim == 3 and image.shape[0] == 3
    planes = [shown_slice(channel, index) for channel in _window(image if is_photograph else image[:1])]
    size = _display_size(planes[0].shape, spacing=spacing, height=height)
    picture = np.stack([_resize(plane, size, Image.Resampling.BICUBIC) for plane in planes], axis=-1)
    picture = np.broadcast_to(picture, (*picture.shape[:2], 3)).astype(np.float64)
    if depth is not None:
        place = math.floor((index + 0.5) * depth.shape[-1] / image.shape[-1])
        picture = _shade(picture, shown_slice(depth, place), num_stages=num_stages)
    if labels is not None:
        picture = _tint(picture, _resize(shown_slice(labels, index), size, Image.Resampling.NEAREST))
    return np.clip(picture, 0, 255).round().astype(np.uint8)


def figure(
    image: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    depth: np.ndarray | None,
    *,
    names: Sequence[str],
    num_stages: int | None = None,
    spacing: Sequence[float] | None = None,
    title: str = "",
    slices_first: bool = False,
) -> Image.Image:
    """Image, truth, prediction and pruning depth side by side on the slice with most foreground, and legends.

    Image (C, *S) or (*S); truth and prediction (*S), values indexing `names`; depth (*grid): how many pruning
    stages the token of a patch survived, 0..num_stages (the largest one seen if None). Truth and depth may be
    missing. Spacing in mm a voxel. `slices_first`: a volume of slices (D, H, W), of which one is shown as it is.
    """
    image = image[None] if image.ndim == prediction.ndim else image
    reference = truth if truth is not None and truth.any() else prediction
    note = ""
    if slices_first:
        place = busiest_slice(np.moveaxis(reference, 0, -1))
        note = f"slice {place + 1} of {len(reference)}"
        image, prediction, reference = image[:, place], prediction[place], reference[place]
        truth = truth if truth is None else truth[place]
        depth = depth if depth is None else depth[place]
        spacing = spacing if spacing is None else spacing[1:]
    index = busiest_slice(reference)
    draw = partial(overlay, image, index=index, spacing=spacing, height=PANEL_HEIGHT)
    panels = [("Image", draw())]
    if truth is not None:
        panels.append(("Ground truth", draw(truth)))
    panels.append(("Prediction", draw(prediction)))
    stages = 0
    if depth is not None:
        stages = int(depth.max()) if num_stages is None else num_stages
        panels.append(("Pruning depth", draw(depth=depth, num_stages=stages)))

    values = [shown_slice(labels, index) for labels in (truth, prediction) if labels is not None]
    seen = [int(value) for value in np.unique(np.concatenate([v.ravel() for v in values])) if value > 0]
    legend = [(_color(value), names[value]) for value in seen]
    shades = [_stage_entry(stage, num_stages=stages) for stage in range(stages + 1 if depth is not None else 0)]
    if prediction.ndim == 3:
        note = f"axial slice {index + 1} of {prediction.shape[-1]}"
    return _compose(panels, legend=legend, shades=shades, title=title, note=note)


def panel(
    image: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    depth: np.ndarray | None,
    *,
    names: Sequence[str],
    path: Path,
    num_stages: int | None = None,
    spacing: Sequence[float] | None = None,
    title: str = "",
    slices_first: bool = False,
) -> None:
    """Write `figure` of the same arguments as PNG."""
    picture = figure(
        image,
        truth,
        prediction,
        depth,
        names=names,
        num_stages=num_stages,
        spacing=spacing,
        title=title,
        slices_first=slices_first,
    )
    with atomic(path) as temporary:
        picture.save(temporary, format="PNG")


def busiest_slice(labels: np.ndarray) -> int:
    """Index along the last axis of the slice with most foreground; the middle one without any, 0 in 2-D."""
    if labels.ndim == 2:
        return 0
    foreground = np.count_nonzero(labels, axis=(0, 1))
    return int(foreground.argmax()) if foreground.any() else labels.shape[-1] // 2


def _window(channels: np.ndarray) -> np.ndarray:
    low, high = np.percentile(channels, (0.5, 99.5))
    return np.clip((channels - low) / max(high - low, 1e-6), 0, 1) * 255.0


def shown_slice(array: np.ndarray, index: int) -> np.ndarray:
    """The axial slice of a 3-D array as rows and columns of a picture; a 2-D array as it is."""
    return array if array.ndim == 2 else array[::-1, ::-1, index].T


def _display_size(shape: Sequence[int], *, spacing: Sequence[float] | None, height: int | None) -> tuple[int, int]:
    """Height and width in square pixels of a slice (rows, columns)."""
    extent = np.array(shape, dtype=np.float64)
    if spacing is not None:
        extent *= spacing[:2] if len(spacing) == 2 else spacing[1::-1]
    scale = height / extent[0] if height else float(np.max(np.array(shape) / extent))
    rows, columns = (max(1, round(length)) for length in (extent * scale).tolist())
    return rows, columns


def _resize(plane: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size[::-1], how))


def _color(value: int) -> np.ndarray:
    return PALETTE[(value - 1) % len(PALETTE)]


def shade_of(stage: int, *, num_stages: int) -> np.ndarray:
    """Red for a token that survived `stage` >= 1 of the stages: the longer, the darker."""
    position = (stage - 1) / max(num_stages - 1, 1) * (len(SHADES) - 1) if num_stages > 1 else len(SHADES) - 2
    low = min(int(position), len(SHADES) - 2)
    return SHADES[low] + (position - low) * (SHADES[low + 1] - SHADES[low])


def _tint(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Fill each class lightly and draw its outline."""
    labels = labels.astype(int)
    framed = np.pad(labels, 1, mode="edge")
    neighbours = (framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:])
    outline = np.any([labels != other for other in neighbours], axis=0)
    strength = np.where(labels > 0, np.where(outline, 1.0, 0.5), 0.0)[..., None]
    return picture * (1 - strength) + _color(np.maximum(labels, 1)) * strength


def _shade(picture: np.ndarray, depth: np.ndarray, *, num_stages: int) -> np.ndarray:
    """Tint each patch by its depth and part the patches by a fine line."""
    cells = []
    border = np.zeros(picture.shape[:2], dtype=bool)
    for axis, (size, patches) in enumerate(zip(picture.shape[:2], depth.shape, strict=True)):
        cell = np.minimum(((np.arange(size) + 0.5) * patches / size).astype(int), patches - 1)
        edge = np.flatnonzero(np.diff(cell)) + 1
        if size >= 6 * patches:
            border[(slice(None),) * axis + (edge,)] = True
        cells.append(cell)
    shown = depth[np.ix_(*cells)].astype(int)
    result = picture.copy()
    for stage in range(1, num_stages + 1):
        mask = shown == stage
        result[mask] = 0.38 * picture[mask] + 0.62 * shade_of(stage, num_stages=num_stages)
    result[border] *= 0.8
    return result


def _stage_entry(stage: int, *, num_stages: int) -> tuple[np.ndarray, str]:
    # what the patches look like over a mid grey
    grey = np.full(3, 128.0)
    color = grey if stage == 0 else 0.38 * grey + 0.62 * shade_of(stage, num_stages=num_stages)
    if stage == num_stages:
        return color, "kept to the end"
    return color, f"dropped at stage {stage + 1}"


def _compose(
    panels: Sequence[tuple[str, np.ndarray]],
    *,
    legend: Sequence[tuple[np.ndarray, str]],
    shades: Sequence[tuple[np.ndarray, str]],
    title: str,
    note: str,
) -> Image.Image:
    small, large = ImageFont.load_default(15), ImageFont.load_default(19)
    head = MARGIN + (34 if title or note else 0)
    width = MARGIN + sum(picture.shape[1] + MARGIN for _, picture in panels)
    bottom = head + TITLE + panels[0][1].shape[0] + MARGIN
    shade_width = (panels[-1][1].shape[1] + MARGIN) if shades else 0
    rows = _flow(legend, width=width - 2 * MARGIN - shade_width, font=small)
    num_lines = max(len(rows), len(shades), 1)
    canvas = Image.new("RGB", (width, bottom + num_lines * LINE + MARGIN // 2), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=large)
    draw.text((width - MARGIN, MARGIN + 3), note, fill=FAINT, font=small, anchor="ra")
    left = MARGIN
    for name, picture in panels:
        draw.text((left, head + 5), name, fill=INK, font=small)
        canvas.paste(Image.fromarray(picture), (left, head + TITLE))
        left += picture.shape[1] + MARGIN
    for line, row in enumerate(rows):
        for offset, color, name in row:
            _entry(draw, (MARGIN + offset, bottom + line * LINE), color=color, name=name, font=small)
    for line, (color, name) in enumerate(shades):
        _entry(draw, (width - shade_width, bottom + line * LINE), color=color, name=name, font=small)
    return canvas


def _flow(
    legend: Sequence[tuple[np.ndarray, str]],
    *,
    width: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> list[list[tuple[int, np.ndarray, str]]]:
    """Entries with their offset in pixels, in lines no wider than `width`, in columns of one width."""
    column = max((int(font.getlength(name)) for _, name in legend), default=0) + 44
    per_line = max(1, width // column)
    lines: list[list[tuple[int, np.ndarray, str]]] = [[] for _ in range(math.ceil(len(legend) / per_line))]
    for number, (color, name) in enumerate(legend):
        lines[number // per_line].append((number % per_line * column, color, name))
    return lines


def _entry(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    *,
    color: np.ndarray,
    name: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    left, top = corner
    swatch = tuple(int(part) for part in color.round())
    draw.rectangle((left, top + 3, left + 16, top + 17), fill=swatch, outline=FAINT)
    draw.text((left + 24, top + 1), name, fill=INK, font=font)
