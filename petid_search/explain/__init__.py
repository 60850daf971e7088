"""Why this one, and not that one: maps of evidence on photos, whether they can be believed, and pictures of them.

`explain` and `explain_photos` compare a probe with the gallery; `ClassExplainer` asks a classifier. What they answer is
tested by an `Examiner`, drawn by `draw`, and written by `write_picture` or into a `Folder`.
"""

from petid_search.explain.belief import Belief, Examiner
from petid_search.explain.classes import ClassExplainer, ClassExplanation
from petid_search.explain.explanation import Explanation, explain, explain_photos
from petid_search.explain.files import Folder, maps_of, to_json, write_picture
from petid_search.explain.maps import border_share, border_warning, hires_cam
from petid_search.explain.sheet import draw, missing_signs

__all__ = [
    "Belief",
    "ClassExplainer",
    "ClassExplanation",
    "Examiner",
    "Explanation",
    "Folder",
    "border_share",
    "border_warning",
    "draw",
    "explain",
    "explain_photos",
    "hires_cam",
    "maps_of",
    "missing_signs",
    "to_json",
    "write_picture",
]
