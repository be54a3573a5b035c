"""All kinds of input by name: what a data set is made of, and what runs leave behind."""

from fuzzing import arrays, descriptions, dicom, itk, nifti, pictures, runs
from fuzzing.kind import Kind

KINDS: dict[str, Kind] = {
    **{**nifti.KINDS, **itk.KINDS, **dicom.KINDS},
    **{**pictures.KINDS, **arrays.KINDS, **descriptions.KINDS},
    **runs.KINDS,
}
