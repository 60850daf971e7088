"""Photos of drawn pets in a folder of folders, each with a name, as a shelter keeps those of its own."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from PIL import Image

from petid_search.cores import usable_cores
from petid_search.synthetic.pet import Pet

# fmt: off
_NAMES: Final = (
    "Rex", "Luna", "Bella", "Milo", "Simba", "Nala", "Rocky", "Daisy", "Oscar", "Molly", "Felix", "Ruby", "Bruno",
    "Cleo", "Max", "Coco", "Sam", "Lilly", "Balu", "Kira", "Leo", "Emma", "Toby", "Mia", "Charly", "Lotte", "Anton",
    "Frieda", "Paul", "Nino", "Zoe", "Henry", "Pepper", "Willow", "Jasper", "Olive", "Otto", "Hazel", "Finn", "Ginger",
    "Archie", "Poppy", "Bandit", "Sophie", "Teddy", "Maya", "Gizmo", "Tilly", "Sunny", "Rosie", "Murphy", "Penny",
    "Baxter", "Stella", "Louie", "Honey", "Jack", "Maggie", "Duke", "Ivy",
)
# fmt: on


def pet_name(individual: int) -> str:
    """The name of the individual of a number, at least 0: from number 60 on, names come back with a number."""
    again, at = divmod(individual, len(_NAMES))
    return f"{_NAMES[at]} {again + 1}" if again else _NAMES[at]


def photo_bytes(pet: Pet, photo: int, *, size: int = 256) -> bytes:
    """A photo as a JPEG, of the quality that belongs to it."""
    buffer = io.BytesIO()
    Image.fromarray(pet.draw(photo, size=size)).save(buffer, "JPEG", quality=pet.view(photo).quality)
    return buffer.getvalue()


def write_pets(
    folder: Path, individuals: int, photos: int, *, seed: int = 0, first: int = 0, first_photo: int = 0, size: int = 256
) -> list[Path]:
    """Write photos of drawn pets, as FOLDER/NAME/NUMBER.jpg; folders are made as needed.

    Args:
        folder: where to.
        individuals: how many.
        photos: how many of each.
        seed: another one gives other pets, at least 0.
        first: number of the first individual.
        first_photo: number of the first photo of each; photos of other numbers are other photos.
        size: side of the photos, in pixels.

    Returns:
        the photos, individual by individual.

    Raises:
        OSError: the folder cannot be written.
    """
    pets = [Pet.of(individual, seed=seed) for individual in range(first, first + individuals)]
    jobs = [
        (folder / pet_name(pet.individual) / f"{photo + 1}.jpg", pet, photo)
        for pet in pets
        for photo in range(first_photo, first_photo + photos)
    ]

    def write(job: tuple[Path, Pet, int]) -> Path:
        file, pet, photo = job
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photo_bytes(pet, photo, size=size))
        return file

    with ThreadPoolExecutor(usable_cores()) as pool:  # drawing is arithmetic on large arrays, which threads share out
        return list(pool.map(write, jobs))
