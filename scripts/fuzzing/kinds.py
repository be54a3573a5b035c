"""All kinds of input by name."""

from fuzzing import arrays, descriptions, itk, nifti, pictures
from fuzzing.kind import Kind

KINDS: dict[str, Kind] = {**nifti.KINDS, **itk.KINDS, **pictures.KINDS, **arrays.KINDS, **descriptions.KINDS}
