"""All kinds of input by name."""

from fuzzing import itk, nifti
from fuzzing.kind import Kind

KINDS: dict[str, Kind] = {**nifti.KINDS, **itk.KINDS}
