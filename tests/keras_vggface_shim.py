"""keras-vggface 0.6 itself, unmodified, on tf-keras.

The package was written for Keras 2 and imports modules that Keras 3 no longer has. They are stood in for while it
is imported, and `sys.modules` is put back afterwards, so that `import keras` goes on meaning Keras 3.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


def import_keras_vggface() -> Any:
    """The module `keras_vggface` with its submodules `models`, `utils` and `vggface`, all on tf-keras."""
    import tf_keras
    from tf_keras.src.applications import imagenet_utils
    from tf_keras.src.utils import layer_utils

    def module(name: str, **contents: Any) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(contents)
        return made

    stand_ins: dict[str, ModuleType] = {
        "keras": tf_keras,
        "keras.backend": tf_keras.backend,
        "keras.layers": tf_keras.layers,
        "keras.models": tf_keras.models,
        "keras.utils": module("keras.utils", layer_utils=layer_utils),
        "keras.utils.data_utils": module("keras.utils.data_utils", get_file=tf_keras.utils.get_file),
        "keras.engine": module("keras.engine"),
        "keras.engine.topology": module("keras.engine.topology", get_source_inputs=tf_keras.utils.get_source_inputs),
        "keras_applications": module("keras_applications"),
        "keras_applications.imagenet_utils": module(
            "keras_applications.imagenet_utils", _obtain_input_shape=imagenet_utils.obtain_input_shape
        ),
    }
    before = dict(sys.modules)
    sys.modules.update(stand_ins)
    try:
        for name in ("models", "utils", "vggface"):
            importlib.import_module(f"keras_vggface.{name}")
        return sys.modules["keras_vggface"]
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update({name: before[name] for name in stand_ins if name in before})
