"""One stage of a training: the same layers learn from its first epoch to its last."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from petid_search.errors import RecipeError
from petid_search.train.batches import Inputs, ahead
from petid_search.train.checkpoint import Checkpoint, Standing, Weights
from petid_search.train.config import Stage, TrainConfig
from petid_search.train.distil import FINDER
from petid_search.train.objective import Objective, compile_for, follow, loss_of, targets
from petid_search.train.schedule import learning_rate
from petid_search.train.validation import Kept, accuracy, is_better, retrieval

if TYPE_CHECKING:
    import keras

_PREDICTED: Final = 64
_REDUCE: Final = 0.3
"""What a plateau multiplies the learning rate by."""


@dataclass(frozen=True, slots=True)
class Step:
    """How far a training is, for a progress bar: epochs and steps from 1 on, and the means of the losses so far."""

    epoch: int
    epochs: int
    step: int
    steps: int
    measured: Mapping[str, float]


class StageRun:
    """Trains one stage, from wherever a checkpoint left it.

    Args:
        config: the training.
        objective: its losses.
        stage: the stage.
        model: the whole model, backbone and head; its weights are trained.
        part: the part of it that is trained on the inputs: the model itself, or a head alone on features; layers of one
            name are the same layer in both.
        inputs: of `part`.
        labels: int64, (photos,), class numbers; -1 for photos that are not trained on.
        draw: from the number of an epoch, counted through all stages from 0 on, to the photos of each of its steps.
        earlier: the stages before, as they are planned.
        kept: what is measured after each epoch.
        classes: of the classifier.
        strategy: TensorFlow's, in whose scope the models were made: which devices a batch is shared out among.
        forgotten: of `part`, what it has forgotten of each photo (see distil.Before); None where that is not asked.
        begin_anew: gives the backbone the weights that the training began with; None where the stage learns on.
    """

    def __init__(
        self,
        config: TrainConfig,
        objective: Objective,
        stage: Stage,
        *,
        model: "keras.Model",
        part: "keras.Model",
        inputs: Inputs,
        labels: NDArray[np.int64],
        draw: Callable[[int], list[NDArray[np.int64]]],
        earlier: Sequence[Stage],
        kept: Kept,
        classes: int,
        strategy: Any,
        forgotten: Any = None,
        begin_anew: Callable[[], object] | None = None,
    ) -> None:
        import keras

        self._config, self._objective, self._stage = config, objective, stage
        self._model, self._part, self._inputs = model, part, inputs
        self._labels, self._draw, self._kept = labels, draw, kept
        self._before = sum(one.epochs for one in earlier)
        self._averages = 1 + sum(one.anew if stage.anew else one.average for one in earlier)
        self._classes, self._strategy, self._distils = classes, strategy, forgotten is not None
        with strategy.scope():
            self._training = compile_for(objective, part, forgotten=forgotten, replicas=strategy.num_replicas_in_sync)
            self._training.optimizer.build(self._training.trainable_variables)
        wanted = {name: one for name, one in part.output.items() if name in ("embedding", "scores")}
        taken = None if objective.classifier is None else objective.classifier.takes
        if taken == "cosines":
            wanted["cosines"] = part.get_layer("cosines").output
        # Outside of the strategy's scope: within, every device would answer for the whole batch.
        self._answering = keras.Model(part.input, wanted)
        self._began: Weights = []
        self._begin_anew = begin_anew
        self._randomness = [one.seed_generator for one in part.layers if hasattr(one, "seed_generator")]

    def run(
        self,
        standing: Standing,
        best: Weights,
        optimizer: Weights,
        began: Weights,
        *,
        step_done: Callable[[Step], object],
        epoch_done: Callable[[dict[str, Any], Callable[[], Checkpoint]], object],
    ) -> Weights:
        """Go through the epochs that are left.

        Args:
            standing: how far the training is; it is kept up to date.
            best: weights of the best epoch so far.
            optimizer: what a checkpoint calls so, where the stage is under way; else empty.
            began: likewise; where the stage averages.
            step_done: told of each step.
            epoch_done: told of each epoch, as it stands in the history, with what makes a checkpoint of it.

        Returns:
            weights of the best epoch.

        Raises:
            RecipeError: the loss is no number any more.
        """
        for variable, value in zip(self._of_the_stage(), optimizer, strict=bool(optimizer)):
            variable.assign(value)
        if self._stage.average:
            self._began = began or self._weights()
            if self._begin_anew is not None and not began:
                self._begin_anew()
        words = "".join(f", {word}" for word in ("average", "anew") if getattr(self._stage, word))
        for epoch in range(standing.epoch, self._stage.epochs):
            if self._config.patience is not None and standing.waited >= self._config.patience:
                break
            started = time.monotonic()
            rate, losses = self._train_epoch(standing, epoch, step_done)
            reached = self._average() if self._stage.average else []
            entry = {
                "epoch": len(standing.history) + 1,
                "stage": f"{standing.stage + 1}: freeze {self._stage.freeze}{words}",
                "learning_rate": rate,
                **losses,
                **self.measure(),
            }
            entry["seconds"] = time.monotonic() - started
            standing.history.append(entry)
            standing.epoch = epoch + 1
            best = self._judge(standing, entry, best)
            if reached and epoch + 1 < self._stage.epochs:
                self._part.set_weights(reached)
            epoch_done(entry, lambda kept=best: self._checkpoint(standing, kept))  # type: ignore[misc]
        self._bring_home()
        return best

    def _weights(self) -> Weights:
        return [np.array(one) for one in self._part.get_weights()]

    def _average(self) -> Weights:
        """Put the mean of the weights and of those that the stage began with in their place; which they were."""
        reached, share = self._weights(), 1 / (1 + self._averages)
        # What never learnt is equal in both, and stays so to the last bit.
        mean = [one + share * (now - one) for one, now in zip(self._began, reached, strict=True)]
        self._part.set_weights(mean)
        return reached

    def _train_epoch(
        self, standing: Standing, epoch: int, step_done: Callable[[Step], object]
    ) -> tuple[float, dict[str, float]]:
        number = (self._config.seed, self._before + epoch)
        drawn_photos = self._draw(number[1])
        steps = len(drawn_photos)
        for place, generator in enumerate(self._randomness):
            drawn = np.random.default_rng((*number, place)).integers(0, 2**31, 2)
            generator.state.assign(drawn.astype(np.uint32))
        peak = self._stage.learning_rate or self._config.learning_rate
        total = self._stage.epochs * steps
        rate = peak
        means: dict[str, float] = {}
        photos = 0
        for step, (inputs, wanted) in enumerate(ahead(self._batches(number, drawn_photos))):
            rate = learning_rate(
                epoch * steps + step,
                total,
                peak=peak,
                schedule=self._config.schedule,
                warmup=self._config.warmup,
                reduced=standing.reduced,
            )
            self._training.optimizer.learning_rate = rate
            losses = self._train_step(inputs, wanted)
            if not np.isfinite(losses["loss"]):
                raise RecipeError(
                    f"The loss is {losses['loss']} in epoch {len(standing.history) + 1}: take a lower learning-rate."
                )
            photos += len(inputs)
            for name, value in losses.items():
                means[name] = means.get(name, 0.0) + (value - means.get(name, 0.0)) * len(inputs) / photos
            step_done(Step(epoch + 1, self._stage.epochs, step + 1, steps, dict(means)))
        return rate, means

    def _train_step(self, inputs: NDArray[np.float32], wanted: dict[str, NDArray[Any]]) -> dict[str, float]:
        """Follow the gradient of a batch; its losses."""
        replicas = self._strategy.num_replicas_in_sync
        if replicas == 1:
            logs = self._training.train_on_batch(inputs, wanted, return_dict=True)
        else:
            # Keras's train_on_batch would give each device the whole batch. The shares are equal, as it is their mean
            # gradient that is followed: the first photos come twice where the batch cannot be divided.
            if self._training.train_function is None:
                self._training.test_on_batch(inputs, wanted)  # which builds what measures
                self._training.make_train_function()
            shares = np.resize(np.arange(len(inputs)), (replicas, -(-len(inputs) // replicas)))
            batch = (self._shared(inputs, shares), {name: self._shared(one, shares) for name, one in wanted.items()})
            self._training.reset_metrics()
            logs = self._training.train_function(iter([(*batch, None)]))
        return {name: float(value) for name, value in logs.items()}

    def _shared(self, values: NDArray[Any], shares: NDArray[np.int64]) -> Any:
        """To each device its share of a batch."""
        import tensorflow

        def share(context: Any) -> Any:
            return tensorflow.constant(values[shares[context.replica_id_in_sync_group]])

        return self._strategy.experimental_distribute_values_from_function(share)

    def _batches(
        self, number: tuple[int, ...], drawn_photos: list[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.float32], dict[str, NDArray[Any]]]]:
        for step, places in enumerate(drawn_photos):
            inputs = self._inputs.training(places, (*number, step))
            wanted = targets(self._objective, self._labels[places], self._classes)
            if self._distils:
                wanted["forgotten"] = np.zeros(len(places), np.float32)
            yield inputs, wanted

    def measure(self) -> dict[str, float]:
        """Measure the model on what is kept from the training."""
        measured: dict[str, float] = {}
        kept = self._kept
        if len(kept.validation) and self._objective.classifier is not None:
            answers = self.answer(kept.validation)
            measured["val_loss"] = loss_of(self._objective, answers, kept.labels, self._classes)
            followed = follow(self._objective, answers["scores"], kept.labels)
            measured.update({f"val_{name}": value for name, value in followed.items()})
            measured["val_accuracy"] = accuracy(answers["scores"], kept.labels)
        if len(kept.held_out):
            measured.update(retrieval(self.answer(kept.held_out)["embedding"], kept))
        return measured

    def answer(self, places: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """The model's outputs for photos as they are, `embedding` and with a classifier `scores`, (n, …)."""
        parts = (places[first : first + _PREDICTED] for first in range(0, len(places), _PREDICTED))
        answers = [self._answering.predict_on_batch(inputs) for inputs in ahead(map(self._inputs.plain, parts))]
        return {name: np.concatenate([np.asarray(one[name]) for one in answers]) for name in answers[0]}

    def _judge(self, standing: Standing, entry: Mapping[str, Any], best: Weights) -> Weights:
        """Keep the weights if they are the best so far; else wait, and reduce the learning rate on a plateau."""
        monitor = self._monitor()
        if monitor is None:
            return best
        monitor = monitor if monitor in entry else f"val_{monitor}"
        if monitor not in entry:
            measured = [name for name in entry if name not in ("epoch", "stage", "seconds", "learning_rate")]
            raise RecipeError(
                f"monitor is {self._monitor()!r}, which is not measured here; there are {', '.join(measured)}."
            )
        better = is_better(entry[monitor], standing.best, monitor)
        standing.waited = 0 if better else standing.waited + 1
        if better or entry[monitor] == standing.best:
            # Of equals the later is taken: what is measured on few photos stands still long before the losses do.
            standing.best, standing.best_epoch = entry[monitor], entry["epoch"]
            self._bring_home()
            best = [np.array(one) for one in self._model.get_weights()]
        plateau = max(2, (self._config.patience or 10) // 2)
        if self._config.schedule == "plateau" and standing.waited and standing.waited % plateau == 0:
            standing.reduced *= _REDUCE
        return best

    def _monitor(self) -> str | None:
        wanted = self._config.monitor
        if wanted != "auto":
            return None if wanted == "none" else wanted
        if len(self._kept.held_out):
            return "mAP"
        return "val_accuracy" if len(self._kept.validation) and self._objective.classifier is not None else None

    def _checkpoint(self, standing: Standing, best: Weights) -> Checkpoint:
        self._bring_home()
        optimizer = [np.array(one.numpy()) for one in self._of_the_stage()]
        return Checkpoint(standing, self._model.get_weights(), optimizer, best, self._began)

    def _of_the_stage(self) -> list[Any]:
        """The variables that the model does not have: the optimiser's, and of the layer that only distilling needs."""
        finder = self._training.get_layer(FINDER).variables if self._distils else []
        return [*self._training.optimizer.variables, *finder]

    def _bring_home(self) -> None:
        """Give the whole model the weights of the part that was trained."""
        from petid_search.models.heads import copy_weights

        if self._part is not self._model:
            copy_weights(self._part, self._model)
