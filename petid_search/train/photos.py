"""TEMP."""

import numpy as np
from petid_search.images import decode, read_photo


class DecodedPhotos:
    def __init__(self, folder, photos, size, problem=None, advance=None):
        self.size = size
        ims = []
        self.places = []
        for i, p in enumerate(photos):
            ims.append(decode(read_photo(p.path), size))
            self.places.append(i)
        self._a = np.stack(ims)
        self.places = np.array(self.places)

    def images(self, places):
        return self._a[places]
