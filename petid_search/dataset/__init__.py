"""Photos of a folder, whom each shows, and how they are divided for an evaluation without leaks."""

from petid_search.dataset.folder import labelled_photos
from petid_search.dataset.manifest import LabelledPhoto, read_manifest
from petid_search.dataset.split_file import read_split, write_split
from petid_search.dataset.splits import Split, make_split, near_duplicate_groups

__all__ = [
    "LabelledPhoto",
    "Split",
    "labelled_photos",
    "make_split",
    "near_duplicate_groups",
    "read_manifest",
    "read_split",
    "write_split",
]
