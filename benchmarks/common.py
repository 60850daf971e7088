"""What the benchmarks share: where the photos and weights are, a model made of them, and how a figure is printed."""

import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

import onnxruntime

import petid_search
from petid_search.models.bundle import Bundle
from petid_search.models.home import add_model, models_home
from petid_search.models.runtime import Embedder

SHARED = Path(__file__).parents[2] / "shared"


def shared_file(*parts: str) -> Path:
    """A file or folder of the shared photos and weights; ends the benchmark where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        sys.exit(f"This benchmark needs {path.relative_to(SHARED.parent)}, which is not here.")
    return path


def imagenet_embedder() -> Embedder:
    """MobileNetV2 with the shared ImageNet weights, as a model `imagenet` in PETID_HOME, made once."""
    folder = models_home() / "imagenet"
    if folder.exists():
        return Embedder(Bundle.open(folder))
    weights = shared_file("weights", "mobilenetv2-imagenet", "mobilenetv2_imagenet.npz")
    return Embedder(add_model("imagenet", backbone="mobilenetv2", weights=weights))


def individuals(name: str) -> list[list[Path]]:
    """The photos of each individual of a shared set, both in the order of their numbers."""

    def by_number(path: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (0, part) for part in path.stem.split(".")]

    folders = sorted(shared_file("data", name).iterdir(), key=by_number)
    return [sorted(folder.glob("*.jpg"), key=by_number) for folder in folders]


def report(title: str, figures: Mapping[str, object]) -> None:
    """Print figures as a table, and as one line of JSON for machines."""
    print(f"\n{title}")
    for name, value in figures.items():
        print(f"  {name:58s} {value:.4g}" if isinstance(value, float) else f"  {name:58s} {value}")
    about = {
        "petid": petid_search.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps({"benchmark": title, **figures, **about}))
