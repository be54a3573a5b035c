"""All kinds of input by name: what data sets are made of, and what runs leave behind."""

from fuzzing import arrays, descriptions, dicom, itk, nifti, pictures, runs
from fuzzing.kind import Kind

MODULES = (nifti, itk, dicom, pictures, arrays, descriptions, runs)
KINDS: dict[str, Kind] = {name: kind for module in MODULES for name, kind in module.KINDS.items()}
