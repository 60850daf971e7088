"""Photos of a folder, whom each shows, and how they are divided for an evaluation without leaks."""

from petid_search.dataset.folder import labelled_photos

__all__ = ["labelled_photos"]
