"""Data sets: readers, preprocessing, caches and the repeatable training loader."""
