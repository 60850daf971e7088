"""The process while it trains: precision, seeds and order of sums are the training's; afterwards they are as before."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from petid_search.errors import RecipeError
from petid_search.models.backbones import import_keras
from petid_search.train.config import Precision


@contextmanager
def settled(precision: Precision, seed: int) -> Iterator[None]:
    """Have everything drawn by a seed, every sum taken in the same order, and layers made in a precision.

    Afterwards the precision, the generators of Python and NumPy and the order of sums are what they were. Keras's and
    TensorFlow's own generators go on from the seed, since nobody can read where they stood.

    Args:
        precision: of the arithmetic; `auto` takes mixed_float16 where there is a GPU.
        seed: from 0 on.
    """
    keras = import_keras()
    import tensorflow
    from tensorflow.python.framework import config as order  # its public half can only be switched on

    wanted: str = precision
    if precision == "auto":
        wanted = "mixed_float16" if tensorflow.config.list_physical_devices("GPU") else "float32"
    policy, ordered = keras.config.dtype_policy(), order.is_op_determinism_enabled()
    logger, told = tensorflow.get_logger(), tensorflow.get_logger().level
    drawn, numpy_drawn = random.getstate(), np.random.get_state()  # the one that Keras seeds
    try:
        keras.config.set_dtype_policy(wanted)
        keras.utils.set_random_seed(seed)
        tensorflow.config.experimental.enable_op_determinism()
        logger.setLevel("ERROR")  # it warns of every function that is traced for another head or stage
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        if not ordered:
            order.disable_op_determinism()
        logger.setLevel(told)
        random.setstate(drawn)
        np.random.set_state(numpy_drawn)


def strategy_for(devices: Sequence[str] | None) -> Any:
    """How a batch is shared out: TensorFlow's MirroredStrategy for several devices.

    Keras's own distribution API cannot: on TensorFlow it is a prototype that says not to use it.

    Args:
        devices: as TensorFlow names them, such as `GPU:0`; None for every GPU.

    Raises:
        RecipeError: there is no such device.
    """
    import tensorflow

    there = [f"{one.device_type}:{one.name.rpartition(':')[2]}" for one in tensorflow.config.list_logical_devices()]
    wanted = [one for one in there if one.startswith("GPU:")] if devices is None else list(devices)
    for one in wanted:
        if one not in there:
            raise RecipeError(f"There is no device {one!r}: take of {', '.join(there)}.")
    if devices is not None or len(wanted) > 1:
        summed = None if wanted[0].startswith("GPU:") else tensorflow.distribute.ReductionToOneDevice()
        return tensorflow.distribute.MirroredStrategy(wanted, cross_device_ops=summed)
    return tensorflow.distribute.get_strategy()
