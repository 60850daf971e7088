"""The losses as the papers write them: plain loops over floats of 64 bits, and gradients by differences."""

import math
from collections.abc import Callable, Sequence

import numpy as np


def distance(x: np.ndarray, y: np.ndarray, kind: str) -> float:
    if kind == "angular":
        return 1 - float(x @ y) / (math.hypot(*x) * math.hypot(*y))
    length = math.dist(x, y)
    return length if kind == "L2" else length**2


def triplet_semi_hard(labels: Sequence[int], embeddings: np.ndarray, margin: float, kind: str) -> float:
    """FaceNet's equation 3 with the negatives of its equation 4, else the farthest; 0 stands for no negative."""
    losses = []
    for anchor, x in enumerate(embeddings):
        negatives = [
            distance(x, y, kind) for y, label in zip(embeddings, labels, strict=True) if label != labels[anchor]
        ]
        for other, y in enumerate(embeddings):
            if other != anchor and labels[other] == labels[anchor]:
                positive = distance(x, y, kind)
                farther = [negative for negative in negatives if negative > positive]
                negative = min(farther) if farther else max(negatives, default=0.0)
                losses.append(max(positive - negative + margin, 0.0))
    return sum(losses) / len(losses) if losses else 0.0


def triplet_hard(labels: Sequence[int], embeddings: np.ndarray, margin: float | None, kind: str) -> float:
    """Equation 5 of Hermans et al.; without a margin their soft one. No positive counts 0, no negative the largest."""
    losses = []
    for anchor, x in enumerate(embeddings):
        positives, negatives, distances = [0.0], [], []
        for other, y in enumerate(embeddings):
            if other != anchor:
                distances.append(distance(x, y, kind))
                (positives if labels[other] == labels[anchor] else negatives).append(distances[-1])
        gap = max(positives) - min(negatives, default=max(distances, default=0.0))
        losses.append(math.log1p(math.exp(gap)) if margin is None else max(gap + margin, 0.0))
    return sum(losses) / len(losses)


def supervised_contrastive(labels: Sequence[int], embeddings: np.ndarray, temperature: float) -> float:
    """Equation 2 of Khosla et al., the mean over anchors with a positive."""
    losses = []
    for anchor, x in enumerate(embeddings):
        others = [other for other in range(len(embeddings)) if other != anchor]
        positives = [other for other in others if labels[other] == labels[anchor]]
        if positives:
            everything = sum(math.exp(float(x @ embeddings[other]) / temperature) for other in others)
            logs = [math.log(math.exp(float(x @ embeddings[other]) / temperature) / everything) for other in positives]
            losses.append(-sum(logs) / len(positives))
    return sum(losses) / len(losses) if losses else 0.0


def margin_softmax(labels: Sequence[int], cosines: np.ndarray, scale: float, lower: Callable[[float], float]) -> float:
    losses = []
    for label, row in zip(labels, cosines, strict=True):
        logits = [scale * (lower(cosine) if place == label else cosine) for place, cosine in enumerate(row)]
        losses.append(-math.log(math.exp(logits[label]) / sum(math.exp(logit) for logit in logits)))
    return sum(losses) / len(losses)


def arcface_lower(cosine: float, margin: float) -> float:
    angle = math.acos(cosine)
    return math.cos(angle + margin) if angle <= math.pi - margin else cosine - margin * math.sin(margin)


def differences(function: Callable[[np.ndarray], float], values: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """The gradient of a function of an array, by central differences."""
    gradient = np.zeros(values.shape)
    for place in np.ndindex(*values.shape):
        high, low = values.astype(float), values.astype(float)
        high[place] += step
        low[place] -= step
        gradient[place] = (function(high) - function(low)) / (2 * step)
    return gradient


def loss_and_gradient(loss, labels, values) -> tuple[float, np.ndarray]:
    """What a Keras loss answers, and its gradient to the values."""
    import tensorflow as tf

    inputs = tf.Variable(values)
    with tf.GradientTape() as tape:
        answer = loss(tf.constant(labels), inputs)
    return float(answer), tape.gradient(answer, inputs).numpy()
