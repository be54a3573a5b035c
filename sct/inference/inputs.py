"""Which images are to be predicted, and where the label map of each goes."""

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from sct.data.cases import Case
from sct.data.formats.base import FileFormat, images_in
from sct.data.identity import check_ids, name_cases
from sct.errors import UserError

# the ending of a file that lists images
LIST = ".txt"
# what `output` ends in where it means a file and no folder
OF_FILES = (".nii", ".gz", ".mha", ".mhd", ".nrrd", ".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npz", ".h5")


def find_inputs(path: Path, *, file_format: FileFormat, recursive: bool = False) -> list[Case]:
    """The file, all of a folder, or those that a list names, one path a line, as cases without label.

    recursive: also what is in folders below a folder
    A case is called as its file where all files have different names, and else by its path below the folder, or below
    the folder that all files of a list have in common.
    """
    name, suffixes = file_format.name, " or ".join(file_format.suffixes)
    if not path.exists():
        raise UserError(
            f"input={path} does not exist. Give a {name} file, a folder of them, or a {LIST} file that lists them."
        )
    found = listed_files(path, file_format=file_format, recursive=recursive)
    # an image of several files is listed once
    files = list(dict.fromkeys(map(file_format.image_of, found)))
    if not files:
        more = " recursive=true also looks into the folders below it." if path.is_dir() and not recursive else ""
        raise UserError(f"input={path} holds no {name} file ({suffixes}).{more}")
    check_twins(files, path=path, file_format=file_format)
    root = path if path.is_dir() else common_folder(files)
    cases = name_cases([(file, None) for file in files], root=root, stem=file_format.stem)
    check_ids(cases)
    return cases


def listed_files(path: Path, *, file_format: FileFormat, recursive: bool) -> Iterator[Path]:
    """The images that `path` stands for, in a fixed order, each once; none is opened."""
    if path.is_dir() and file_format.is_image(path):
        if within := list(images_in(path, file_format=file_format, recursive=False)):
            raise UserError(
                f"input={path} is one image of several files, and holds other images such as {within[0].name}. Give "
                "each a folder of its own."
            )
        yield path
    elif path.is_dir():
        yield from images_in(path, file_format=file_format, recursive=recursive)
    elif file_format.is_image(path):
        yield path
    elif path.suffix.lower() == LIST:
        entries = [entry for place in read_list(path) for entry in images_of(place, path, file_format, recursive)]
        yield from dict.fromkeys(entries)


def images_of(place: Path, source: Path, file_format: FileFormat, recursive: bool) -> Iterator[Path]:
    """The images of one line of the list `source`: a file, which need not exist yet, or a folder."""
    if file_format.is_image(place):
        yield place
    elif place.is_dir():
        yield from images_in(place, file_format=file_format, recursive=recursive)
    else:
        raise UserError(
            f"input={source} lists {place}, which is neither a folder nor a {file_format.name} file "
            f"({' or '.join(file_format.suffixes)}). Correct or remove that line."
        )


def read_list(path: Path) -> list[Path]:
    """The paths of a list, as they are written by any system.

    Paths that are not absolute are below the folder of the list where the first of them is found there, and else below
    the working directory.
    """
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    places = [Path(line.strip()).expanduser() for line in text.splitlines() if line.strip()]
    if os.sep == "/":  # written on Windows
        places = [Path(str(p).replace("\\", "/")) if "\\" in str(p) and not p.exists() else p for p in places]
    relative = next((place for place in places if not place.is_absolute()), None)
    if relative is None or not (path.parent / relative).exists():
        return places
    return [path.parent / place for place in places]


def common_folder(files: Sequence[Path]) -> Path:
    """The deepest folder that all files are in, somewhere."""
    folders = {os.path.abspath(folder) for folder in {file.parent for file in files}}
    try:
        return Path(os.path.commonpath(sorted(folders)))
    except ValueError:  # on several drives of Windows
        return Path()


def check_twins(files: Sequence[Path], *, path: Path, file_format: FileFormat) -> None:
    """UserError where two files of one folder differ in their ending alone: their label maps would have one name."""
    by_stem: dict[tuple[Path, str], Path] = {}
    for file in files:
        other = by_stem.setdefault((file.parent, file_format.stem(file)), file)
        if other != file:
            raise UserError(f"input={path} holds both {other.name} and {file.name}; remove one of them.")


def label_paths(cases: Sequence[Case], *, output: Path, file_format: FileFormat) -> dict[str, Path]:
    """Where the label map of each case goes, by the case's name: into a folder, or, of one case, to a file.

    UserError where several are to go to one file, to a file of another format, or over an image.
    """
    is_file = not output.is_dir() and (output.is_file() or output.name.lower().endswith(OF_FILES))
    if is_file and len(cases) > 1:
        raise UserError(f"output={output} is one file, but there are {len(cases)} images to predict. Give a folder.")
    if is_file and not output.name.lower().endswith(endings := file_format.label_endings(like=cases[0].image)):
        raise UserError(
            f"output={output} is a file name, and label maps of this run are files that end in "
            f"{' or '.join(endings)}. Give a name that ends so, or a folder."
        )
    paths = {
        case.name: output if is_file else file_format.label_path(output / case.name, like=case.image) for case in cases
    }
    check_output(cases, paths=paths, output=output, file_format=file_format)
    return paths


def check_output(cases: Sequence[Case], *, paths: dict[str, Path], output: Path, file_format: FileFormat) -> None:
    """UserError where the label map of a case would be written over an image."""
    # of many files, only the few folders are looked up
    folder = cache(lambda place: Path(os.path.realpath(place)))
    targets = {folder(path.parent) / path.name for path in paths.values()}
    # nor may label maps lie among the slices of a series
    targets.add(folder(output.parent) / output.name)
    files = [file for case in cases for file in (case.image, *file_format.files(case.image))]
    if taken := [file for file in files if folder(file.parent) / file.name in targets]:
        raise UserError(f"output={output} would overwrite the input {taken[0]}, or lie in it; give another folder.")
