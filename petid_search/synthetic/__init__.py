"""Drawn pets: coat, markings, ears and eyes are the individual's; pose, light and background the photo's."""

from petid_search.synthetic.folder import pet_name, photo_bytes, write_pets
from petid_search.synthetic.pet import Marking, Pet
from petid_search.synthetic.view import View

__all__ = ["Marking", "Pet", "View", "pet_name", "photo_bytes", "write_pets"]
