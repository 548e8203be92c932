"""Learned labels of few images: what they are over the epochs is known in every number."""

import numpy as np
import numpy.typing as npt

IMAGES, CLASSES = 40, 8
INDICES = list(range(0, 3 * IMAGES, 3))

Floats = npt.NDArray[np.float32]


def instance_labels(epochs: int = 5) -> Floats:
    """Labels (epochs, N, K): image i starts at class i % K, and images 3, 4 and 5 end elsewhere, 4 the furthest."""
    labels = np.full((epochs, IMAGES, CLASSES), 0.1 / (CLASSES - 1), np.float32)
    labels[:, np.arange(IMAGES), np.arange(IMAGES) % CLASSES] = 0.9
    for image, share in ((3, 0.6), (4, 0.95), (5, 0.7)):
        for epoch in range(epochs):
            moved = share * epoch / (epochs - 1)
            labels[epoch, image] = (1 - moved) * labels[0, image]
            labels[epoch, image, (image + 1) % CLASSES] += moved
    return labels


def class_labels() -> Floats:
    """Class parameters (epochs, steps, K)."""
    return np.linspace(0.1, 0.4, 5 * 3 * CLASSES, dtype=np.float32).reshape(5, 3, CLASSES)
