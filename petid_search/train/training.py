"""The whole of a training, from photos to report and bundle; broken off, it is taken up where it stopped."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from petid_search.calibrate import Carried
from petid_search.errors import PhotoError, RecipeError
from petid_search.evaluate.trained_on import Known, known
from petid_search.images import FIT, SPLIT_FILE
from petid_search.models.architecture import Head, Kept
from petid_search.models.backbones import BACKBONES, create_backbone
from petid_search.models.bundle import Bundle, write_bundle
from petid_search.models.copying import set_weights_by_layer, weights_by_layer
from petid_search.models.half import rounded
from petid_search.models.home import check_new_name, has_model, models_home, open_model
from petid_search.train.augment import Augmentation, Augmenter
from petid_search.train.batches import FeatureInputs, Inputs, PhotoInputs, ahead
from petid_search.train.checkpoint import Checkpoint, Standing, Weights, load, save
from petid_search.train.config import PATHS, Stage, TrainConfig
from petid_search.train.distil import Before
from petid_search.train.experts import compare_experts
from petid_search.train.finishing import (
    blend,
    check_kept,
    compact,
    fit_kept,
    frozen_throughout,
    plan_kept,
    set_beside,
    with_mirror,
)
from petid_search.train.freezing import freeze, unfold
from petid_search.train.loop import StageRun, Step
from petid_search.train.material import Material, divide, gather, photos_folder
from petid_search.train.network import Start, start_from
from petid_search.train.objective import Objective, make_objective
from petid_search.train.output import CACHE, CHECKPOINT_FILE, claim, clear, keep
from petid_search.train.photos import DecodedPhotos
from petid_search.train.process import settled, strategy_for
from petid_search.train.report import Classified, write_report
from petid_search.train.sampling import balanced, few_photos, p_k, shuffled
from petid_search.train.validation import retrieval

if TYPE_CHECKING:
    import keras

    from petid_search.train.tensorboard import TensorBoardLog

_HELD_OUT: Final = 0.2
_PROJECTION: Final = 512
"""Numbers of an embedding that learns; of a frozen backbone, nothing else of it could."""
_MEASURING: Final = "Measuring the network as it is"
_SOME: Final = 512
"""Photos that give the mean of a network's features."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Who wants to be told of what goes on; by default nobody.

    Attributes:
        problem: of each photo that cannot be used.
        note: of something worth knowing, a sentence.
        step: of each step.
        epoch: of each epoch, as it stands in the history.
        doing: of how far something else is: what, how many are done, of how many.
        download: of a download of weights (see weights.fetch).
    """

    problem: Callable[[PhotoError], object] = lambda _: None
    note: Callable[[str], object] = lambda _: None
    step: Callable[[Step], object] = lambda _: None
    epoch: Callable[[Mapping[str, Any]], object] = lambda _: None
    doing: Callable[[str, int, int], object] = lambda *_: None
    download: Callable[[int, int | None], None] | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a training.

    Attributes:
        bundle: the model.
        output: the folder of the report.
        report: as in its report.json.
    """

    bundle: Bundle
    output: Path
    report: Mapping[str, Any]


def train(
    config: TrainConfig,
    *,
    output: Path | None = None,
    models: Path | None = None,
    watch: Watch | None = None,
    devices: Sequence[str] | None = None,
    seconds_between_checkpoints: float = 20.0,
) -> Trained:
    """Train a model, and write it as a bundle among petid's models, under the config's name.

    A training that was broken off goes on where it stood when it is called again with the same config and output, and
    ends with the same model.

    Args:
        config: the training; its `folder` is needed.
        output: the folder of report, split, TensorBoard's log and checkpoint; by default `runs/NAME`.
        models: the folder that the bundle is put into; by default that of petid's models.
        watch: who is told of what.
        devices: what to train on, as TensorFlow names them, such as `GPU:0`; by default every GPU, or else the CPU. A
            batch is shared out among several, and a metric loss compares the photos of a share.
        seconds_between_checkpoints: a checkpoint is written after the first epoch that ends so long after the last one,
            and at the end of a stage.

    Raises:
        RecipeError: the config cannot be followed, or there is no such device.
        DatasetError: the photos cannot be divided as was asked, or the output cannot be written.
        LeakError: the split given leaks.
        ModelError: the name is taken, or the network or its weights cannot be had.
    """
    watch = watch or Watch()
    started = time.monotonic()
    name = config.name or photos_folder(config).resolve().name
    models = models_home() if models is None else models
    check_new_name(name, models)  # before Keras is imported, which takes seconds
    config = _inherited(replace(config, name=name))
    config = _completed(config, make_objective(config))
    objective = make_objective(config)
    output = Path("runs") / name if output is None else output
    resumes = claim(output, config)
    split, photos, groups = divide(config, output / SPLIT_FILE if resumes else None, watch.problem)
    if not resumes:
        keep(split, output)
    strategy = strategy_for(devices)
    with settled(config.precision, config.seed):
        with strategy.scope():
            start = start_from(config, watch.download)
        size = int(start.network.input_shape[1])
        material = gather(split, photos, groups, output / CACHE, size, problem=watch.problem, doing=watch.doing)
        watch.note(_who(material, objective))
        run = _Run(config, objective, start, material, output, watch, strategy, seconds_between_checkpoints)
        best = run.through_all_stages(load(output / CHECKPOINT_FILE) if (output / CHECKPOINT_FILE).exists() else None)
        return run.finish(models / name, best, started)


def _inherited(config: TrainConfig) -> TrainConfig:
    """The config with the embedding of the model that it goes on from, where it does not name another."""
    if config.backbone in BACKBONES or not has_model(config.backbone):
        return config
    head = open_model(config.backbone).card.head
    return replace(
        config,
        pooling=config.pooling or head.pooling,
        projection=config.projection or head.projection,
        mirror=config.mirror or head.mirror,
    )


def _completed(config: TrainConfig, objective: Objective) -> TrainConfig:
    """The config with what depends on the rest of it filled in, so that its recipe tells everything."""
    individuals, photos = config.hold_out_individuals, config.hold_out_photos
    individuals = (_HELD_OUT if objective.learns_embedding else 0.0) if individuals is None else individuals
    measured = objective.learns_scores or config.metrics
    photos = (_HELD_OUT if measured else 0.0) if photos is None else photos
    spec = BACKBONES.get(config.backbone)
    if spec is not None and config.embed_size is not None and config.embed_size < spec.smallest:
        raise RecipeError(f"{spec.name} takes photos of {spec.smallest} px or more: give a larger embed-size.")
    sampler = config.sampler
    if sampler == "auto":
        sampler = "p-k" if objective.metric is not None else "balanced"
    if sampler == "p-k" and config.batch_size < 2 * config.photos_per_individual:
        raise RecipeError(
            f"A batch of {config.batch_size} holds no two individuals with {config.photos_per_individual} photos each: "
            "take a larger batch-size or fewer photos-per-individual."
        )
    return replace(
        config,
        projection=config.projection or (_PROJECTION if objective.learns_embedding else None),
        hold_out_individuals=individuals,
        hold_out_photos=photos,
        sampler=sampler,
    )


def _who(material: Material, objective: Objective) -> str:
    """Who is trained on, and what it is measured by, in a sentence or two."""
    kept = material.kept
    said = f"Training on {len(material.trained)} photos of {len(material.classes)} individuals"
    if len(kept.validation):
        said += f", measuring on {len(kept.validation)} other photos of them"
    if not len(kept.held_out):
        return f"{said}."
    knows = "; the classifier does not know those" if objective.classifier is not None else ""
    return (
        f"{said}; {material.held_out} more individuals ({len(kept.held_out)} photos) are held out to measure on{knows}."
    )


class _Run:
    """One training under way."""

    def __init__(
        self,
        config: TrainConfig,
        objective: Objective,
        start: Start,
        material: Material,
        output: Path,
        watch: Watch,
        strategy: Any,
        seconds_between_checkpoints: float,
    ) -> None:
        from petid_search.models.heads import create_model

        self.start_weights = weights_by_layer(start.network)
        self.strategy, self.seconds_between_checkpoints = strategy, seconds_between_checkpoints
        self.config, self.objective, self.start = config, objective, start
        self.material, self.output, self.watch = material, output, watch
        for number, stage in enumerate(config.plan, start=1):
            learning = freeze(start.network, stage.freeze, norm=config.freeze_norm)
            if stage.anew and not learning:
                raise RecipeError(
                    f"Stage {number} begins anew, and its freeze = {stage.freeze!r} leaves nothing of the backbone to "
                    "learn: freeze fewer layers, or leave anew out."
                )
        if start.kept is not None:
            check_kept(start.kept, start.network, config)
        self.kept = plan_kept(start.network, config, len(material.trained))
        self.head = replace(objective.head, kept=start.kept)
        self.classes = len(material.classes) if objective.classifier is not None else 0
        with strategy.scope():
            self.model = create_model(start.network, self.head, self.classes)
        _inherit(start, self.model, material.classes)
        augmentation = augmentation_of(config)
        augmenter = Augmenter(augmentation, material.decoded.size) if augmentation != Augmentation() else None
        self.photos = PhotoInputs(material.decoded, augmenter)
        self.augmented = augmenter is not None
        self.standing = Standing()
        self.known = _known_before(start, material)
        if self.known.photos or self.known.individuals:
            watch.note(
                f"{config.backbone} was itself trained on {self.known.photos} of the photos measured and on "
                f"{self.known.individuals} of the individuals held out: the figures flatter. "
                "Train it and go on from it by one --split."
            )
        self.saved = time.monotonic()
        if config.sampler == "p-k":
            few = few_photos(material.labels[material.trained], config.photos_per_individual)
            if few.fewer:
                watch.note(
                    f"{few.fewer} of {few.classes} individuals have fewer than {config.photos_per_individual} photos "
                    f"to train on ({few.single} have one): theirs stand in a batch more than once."
                )

    def through_all_stages(self, checkpoint: Checkpoint | None) -> Weights:
        """Train stage by stage; the weights of the best epoch, or the last ones where nothing is monitored."""
        from petid_search.train.tensorboard import TensorBoardLog

        best: Weights = []
        optimizer: Weights = []
        began: Weights = []
        if checkpoint is not None:
            self.standing, best = checkpoint.standing, checkpoint.best
            optimizer, began = checkpoint.optimizer, checkpoint.began
            self.model.set_weights(checkpoint.weights)
            self.watch.note(f"Going on after epoch {len(self.standing.history)}.")
        else:
            self.standing.before = self._before()
        learns = any(stage.freeze != "all" for stage in self.config.plan)
        if checkpoint is None and learns and not self.config.freeze_norm:
            unfold(self.start.network, self._some_photos())
        with TensorBoardLog(self.output / "tensorboard", first_epoch=len(self.standing.history) + 1) as log:
            if checkpoint is None:
                log.graph(self.model)
                log.hyperparameters(self.config.to_json())
            for number, stage in enumerate(self.config.plan):
                if number < self.standing.stage or (number == self.standing.stage and self._is_over(stage)):
                    continue
                if number > self.standing.stage:
                    self.standing.stage, self.standing.epoch = number, 0
                    self.standing.waited, self.standing.reduced, optimizer, began = 0, 1.0, [], []
                    if best:  # what the stages before made of the network, not what they ended with
                        self.model.set_weights(best)
                run = self._stage(number, stage)
                best = run.run(
                    self.standing,
                    best,
                    optimizer,
                    began,
                    step_done=self.watch.step,
                    epoch_done=lambda entry, made: self._epoch_done(entry, made, log),
                )
        return best or [np.array(one) for one in self.model.get_weights()]

    def _is_over(self, stage: Stage) -> bool:
        """Whether the stage under way has nothing left to do: taken up again, the training begins with the next."""
        patience = self.config.patience
        return self.standing.epoch >= stage.epochs or (patience is not None and self.standing.waited >= patience)

    def _epoch_done(self, entry: dict[str, Any], made: Callable[[], Checkpoint], log: "TensorBoardLog") -> None:
        log.epoch(entry)
        last = self._is_over(self.config.plan[self.standing.stage])
        if last or time.monotonic() - self.saved >= self.seconds_between_checkpoints:
            save(made(), self.output / CHECKPOINT_FILE)
            log.weights(self.model, entry["epoch"])
            self.saved = time.monotonic()
        self.watch.epoch(entry)

    def _before(self) -> dict[str, float]:
        """Retrieval by the network that the training starts from: by the model's embedding, or the pooled features."""
        from petid_search.models.heads import create_model

        kept = self.material.kept
        if not len(kept.held_out):
            return {}
        bare = self.start.model or create_model(self.start.network, Head(pooling=self.head.pooling))
        return retrieval(self._answers(bare.input, bare.output["embedding"], kept.held_out, _MEASURING), kept)

    def _answers(self, pixels: Any, output: Any, places: NDArray[np.int64], doing: str) -> NDArray[np.float32]:
        """What a network, from its input to one of its tensors, answers to photos as they are."""
        import keras

        # Not in the strategy's scope: each device would answer for the whole batch.
        network = keras.Model(pixels, output)
        batches = [places[at : at + 64] for at in range(0, len(places), 64)]
        found = []
        for done, images in enumerate(ahead(map(self.photos.plain, batches)), start=1):
            found.append(np.asarray(network.predict_on_batch(images)))
            self.watch.doing(doing, done, len(batches))
        return np.concatenate(found)

    def _some_photos(self) -> Iterator[NDArray[np.float32]]:
        """A few hundred of the photos trained on, as they are, in batches."""
        rng = np.random.default_rng(self.config.seed)
        drawn = rng.permutation(self.material.trained)[:_SOME]
        return (self.photos.plain(drawn[at : at + 32]) for at in range(0, len(drawn), 32))

    def _stage(self, number: int, stage: Stage, *, learns: bool = True) -> StageRun:
        material, config = self.material, self.config
        learning = freeze(self.start.network, stage.freeze, norm=config.freeze_norm)
        part, inputs = self.model, self.photos
        if learning == 0 and config.cache and learns:
            part, inputs = self._on_features()  # type: ignore[assignment]
        return StageRun(
            config,
            self.objective,
            stage,
            model=self.model,
            part=part,
            inputs=inputs,
            labels=material.labels,
            draw=self._draw,
            earlier=config.plan[:number],
            kept=material.kept,
            classes=self.classes,
            strategy=self.strategy,
            forgotten=self._forgotten() if learns and learning and config.distil else None,
            begin_anew=self._begin_anew if stage.anew else None,
        )

    def _begin_anew(self) -> None:
        set_weights_by_layer(self.start.network, self.start_weights)

    def _forgotten(self) -> Any:
        """Of the model, what it has forgotten of each photo."""
        network = self.start.network
        frozen = frozen_throughout(network, self.config)  # what no stage has moved
        with self.strategy.scope():
            before = Before(network, self.start_weights, self.objective.head.pooling, frozen)
        centre = before.centre(self._some_photos())
        with self.strategy.scope():
            return before.forgotten(self.model, centre)

    def _on_features(self) -> tuple["keras.Model", Inputs]:
        """The head alone, and features of the frozen backbone for it."""
        import keras

        from petid_search.models.heads import create_head

        head = self.head
        flattens = head.classifier is not None and head.classifier.flatten
        taken = self.start.network.output if flattens else self.model.get_layer("pooled").output
        network = keras.Model(self.start.network.input, taken)
        features = FeatureInputs(
            self.output / CACHE / "features.npy",
            self.photos,
            network.predict_on_batch,
            places=np.flatnonzero(self.material.decoded.usable),
            trained=self.material.trained,
            variants=self.config.variants if self.augmented else 1,
            seed=self.config.seed,
            key=[
                self._digest(),
                self.material.decoded.size,
                self.config.to_json(),
                [photo.sha256 for photo in self.material.photos],
            ],
            advance=lambda done, total: self.watch.doing("Passing photos through the backbone", done, total),
        )
        with self.strategy.scope():
            part = create_head(head, self.classes, features.shape)
        for layer in part.layers:
            if layer.weights:
                layer.set_weights(self.model.get_layer(layer.name).get_weights())
        return part, features

    def _digest(self) -> str:
        """Of the backbone's weights, on which features depend: an earlier stage may have trained them."""
        digest = hashlib.sha256()
        for one in self.start.network.get_weights():
            digest.update(one.tobytes())
        return digest.hexdigest()

    def _draw(self, epoch: int) -> list[NDArray[np.int64]]:
        """The photos of each step of an epoch."""
        config, trained = self.config, self.material.trained
        labels = self.material.labels[trained]
        if config.sampler == "p-k":
            most = min(config.batch_size // config.photos_per_individual, len(self.material.classes))
            # As many to each device, where a batch is shared out: an individual's photos stay together.
            replicas = self.strategy.num_replicas_in_sync
            drawn = p_k(
                labels,
                most - most % replicas if most >= 2 * replicas else most,
                config.photos_per_individual,
                seed=config.seed,
                epoch=epoch,
            )
        elif config.sampler == "balanced":
            drawn = balanced(labels, min(config.batch_size, len(labels)), seed=config.seed, epoch=epoch)
        else:
            drawn = shuffled(len(labels), config.batch_size, seed=config.seed, epoch=epoch)
        return [trained[places] for places in drawn]

    def finish(self, folder: Path, best: Weights, started: float) -> Trained:
        """Write report and bundle of the best weights; then what the training no longer needs is deleted."""
        self.model.set_weights(best)
        if self.config.blend < 1.0:
            blend(self.start.network, self.start_weights, self.config.blend)
        if self.config.embed_size not in (None, self.material.decoded.size):
            self._enlarge(int(self.config.embed_size or 0))
        if self.kept is not None:
            self._set_beside(self.kept)
        if self.config.mirror:
            with self.strategy.scope():
                self.model, self.head = with_mirror(self.model, self.start.network, self.head, self._classes_now())
        # What is measured is what is stored.
        if self.config.half:
            if self.head.kept is not None:
                compact(self.model, self.start.network, self.head.kept)
            self.model.set_weights(rounded(self.model.get_weights()))
        material, kept = self.material, self.material.kept
        figures: dict[str, float] = {}
        classified = stage = None
        if "scores" in self.model.output and len(kept.validation):
            stage = self._stage(len(self.config.plan) - 1, self.config.plan[-1], learns=False)
            figures = stage.measure()
            scores = stage.answer(kept.validation)["scores"]
            names = [material.photos[place].name for place in kept.validation]
            classified = Classified(material.classes, names, kept.labels, scores)
        embeddings = self._embed(kept.held_out) if len(kept.held_out) else None
        if embeddings is not None:
            figures |= retrieval(embeddings, kept)
        self._log(classified, embeddings)
        calibration = self._calibration(embeddings)
        experts: dict[str, Any] = {}
        if calibration is not None and stage is not None and len(kept.validation) and self.config.keep_classifier:
            combined, experts["experts"] = compare_experts(stage.answer, material, self.watch.doing)
            calibration["combined"] = combined and combined.to_json()
        run = {
            "model": folder.name,
            "recipe": self.config.to_json(),
            "photos": {
                role: sum(one.role == role for one in material.split.photos)
                for role in ("train", "validation", "held out", "left out")
            },
            "classes": len(material.classes),
            "individuals_held_out": material.held_out,
            "known_before": asdict(self.known),
            "figures": figures,
            "before": self.standing.before,
            **experts,
            "seconds": time.monotonic() - started,
        }
        if "mAP" in figures and figures["mAP"] < self.standing.before.get("mAP", 0.0):
            self.watch.note(
                f"On the individuals held out, the model is worse than the network before it (mAP {figures['mAP']:.4f} "
                f"after {self.standing.before['mAP']:.4f}): train it longer, at a lower rate, or on more individuals."
            )
        report = write_report(
            self.output, self.standing.history, best_epoch=self.standing.best_epoch, classified=classified, run=run
        )
        # The cache first, which makes room; a training that is broken off from here on makes what it needs of it again.
        clear(self.output / CACHE)
        bundle = self._write_bundle(folder, figures | experts, calibration)
        (self.output / CHECKPOINT_FILE).unlink(missing_ok=True)
        return Trained(bundle, self.output, report)

    def _classes_now(self) -> int:
        """Classes of the model's classifier, which what is kept leaves none of."""
        return self.classes if self.head.classifier is not None else 0

    def _embed(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings of photos by the model as it is, float32, (n, d)."""
        return self._answers(self.model.input, self.model.output["embedding"], places, "Measuring the model")

    def _set_beside(self, kept: Kept) -> None:
        """Set what the network answered before it was trained beside what it learnt."""
        with self.strategy.scope():
            fresh = create_backbone(self.start.backbone, size=self.material.decoded.size)
            self.model, self.head = set_beside(self.model, fresh, self.start_weights, self.head, kept)
        self.start = replace(self.start, network=fresh, model=None)
        pooled = self.model.get_layer("kept_pooled").output
        answers = self._answers(self.model.input, pooled, self.material.trained, "Whitening what is kept")
        fit_kept(self.model, self.head, answers)

    def _enlarge(self, size: int) -> None:
        """Let the trained network take larger photos from here on: what it is measured on and what it is stored as.

        Augmentation shows animals larger than they are measured; a larger input makes up for it. Source: Touvron,
        Vedaldi, Douze, Jégou, "Fixing the train-test resolution discrepancy", NeurIPS 2019, arXiv:1906.06423.
        """
        from petid_search.models.heads import create_model

        weights, old = self.model.get_weights(), self.material
        with self.strategy.scope():
            network = create_backbone(self.start.backbone, size=size)
            self.model = create_model(network, self.head, self.classes)
        self.model.set_weights(weights)
        self.start = replace(self.start, network=network, model=None)
        cache, watch = self.output / CACHE, self.watch
        self.material = gather(old.split, old.photos, old.groups, cache, size, problem=watch.problem, doing=watch.doing)
        self.photos, self.augmented = PhotoInputs(self.material.decoded, None), False

    def _calibration(self, embeddings: NDArray[np.float32] | None) -> dict[str, Any] | None:
        """What the model carries for galleries that are too small to have a calibration of their own."""
        if embeddings is None or self.material.held_out < 2:
            return None
        if self.known.individuals or self.known.photos:
            # Strangers whom the model was trained on are told apart too well: the thresholds would be too low.
            self.watch.note(
                f"The model carries no calibration, since {self.config.backbone} was trained on some of those measured."
            )
            return None
        kept = self.material.kept
        return Carried.measure(embeddings, kept.owners, kept.groups, data=self._data()).to_json()

    def _data(self) -> str:
        """The name of the set that is trained on."""
        return photos_folder(self.config).resolve().name

    def _log(self, classified: Classified | None, held_out: NDArray[np.float32] | None) -> None:
        """Precision-recall curves and the projector, of the best weights."""
        from petid_search.train.tensorboard import TensorBoardLog

        kept, material = self.material.kept, self.material
        epoch = len(self.standing.history)
        with TensorBoardLog(self.output / "tensorboard", first_epoch=epoch + 1) as log:
            if classified is not None:
                log.precision_recall(classified.labels, classified.scores, classified.names, epoch)
            shown = kept.held_out if len(kept.held_out) else kept.validation
            if len(shown):
                names = {one.photo: one.individual for one in material.split.photos}
                log.embeddings(
                    self._embed(shown) if held_out is None else held_out,
                    [names[material.photos[place].name] for place in shown],
                    _thumbnails(material.decoded, shown),
                )

    def _write_bundle(self, into: Path, figures: Mapping[str, Any], calibration: Mapping[str, Any] | None) -> Bundle:
        import keras

        from petid_search.models.heads import create_model

        model = self.model
        # What is shipped computes in float32, on one device.
        if keras.config.dtype_policy().name != "float32" or self.strategy.num_replicas_in_sync > 1:
            weights = model.get_weights()
            keras.config.set_dtype_policy("float32")  # until `settled` ends
            network = create_backbone(self.start.backbone, size=self.material.decoded.size)
            model = create_model(network, self.head, self._classes_now())
            model.set_weights(weights)
        head = self.head
        if not self.config.keep_classifier:
            head = replace(head, classifier=None)
            outputs = {name: model.output[name] for name in ("embedding", "features")}
            model = keras.Model(model.input, outputs, name=model.name)
        config, material = self.config, self.material
        photos = f"{len(material.trained)} photos of {len(material.classes)} individuals in {self._data()}"
        given = f" ({config.data})" if config.data else ""
        before = self.start.licence
        licence = config.licence or "no wider than those of the photos trained on and of the weights before"
        split_digest = hashlib.sha256((self.output / SPLIT_FILE).read_bytes()).hexdigest()
        measured = {
            "protocol": f"split.csv (sha256 {split_digest[:12]}): retrieval of held-out individuals' photos among each "
            "other, near-duplicates apart; accuracy on photos not trained on",
            "individuals_held_out": material.held_out,
            "photos_held_out": len(material.kept.held_out),
            "photos_validation": len(material.kept.validation),
            "known_before": asdict(self.known),
            **figures,
        }
        return write_bundle(
            model,
            into,
            name=into.name,
            backbone=self.start.backbone,
            fit=FIT,
            head=head,
            origin=self.start.origin,
            licence=f"{licence}; of the weights that it started from: {before}",
            data=f"{photos}{given}; before that: {self.start.data}",
            classes=material.classes if head.classifier is not None else (),
            purpose=config.purpose or "",
            limits=config.limits or "",
            half=config.half,
            metrics=measured,
            calibration=calibration,
            # Where the photos lay is nobody's business whom the model is given to.
            recipe={word: Path(one).name if word in PATHS else one for word, one in config.to_json().items()},
            split=self.output / SPLIT_FILE,
        )


def _known_before(start: Start, material: Material) -> Known:
    """How many of the photos measured, and of the individuals held out, the model gone on from was trained on."""
    if start.training is None:
        return Known(0, 0)
    kept, photos = material.kept, material.photos
    held_out = known(start.training, (photos[place] for place in kept.held_out))
    validation = known(start.training, (photos[place] for place in kept.validation))
    return Known(held_out.photos + validation.photos, held_out.individuals)


def augmentation_of(config: TrainConfig) -> Augmentation:
    """How a config varies its photos."""
    return Augmentation(
        rotation=config.rotation,
        shift=config.shift,
        flip=config.flip,
        zoom=(config.zoom[0], config.zoom[1]) if config.zoom else 0.0,
        crop=config.crop,
        colour=config.colour,
        blur=config.blur,
        erasing=config.erasing,
        padding=config.padding,
    )


def _thumbnails(decoded: DecodedPhotos, places: NDArray[np.int64]) -> NDArray[np.uint8]:
    step = max(1, decoded.size // 48)
    parts = (decoded.images(places[at : at + 64])[:, ::step, ::step] for at in range(0, len(places), 64))
    return np.concatenate(list(parts))


def _inherit(start: Start, model: "keras.Model", classes: tuple[str, ...]) -> None:
    """Give a new head what fits of the model that is gone on from; a classifier only where the classes are the same."""
    if start.model is None:
        return
    own = {layer.name: layer for layer in start.model.layers if layer.weights}
    kept = ("projection", "kept", "kept_projection") if classes != start.classes else tuple(own)
    for layer in model.layers:
        other = own.get(layer.name)
        if other is not None and layer.name in kept and other is not layer:
            shapes = [tuple(weight.shape) for weight in layer.weights]
            if shapes == [tuple(weight.shape) for weight in other.weights]:
                layer.set_weights(other.get_weights())
