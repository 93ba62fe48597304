"""A softmax regression in NumPy that obeys the trainer's protocol: what the trainer does is then known exactly."""

import numpy as np


class Softmax:
    """Plain gradient descent on w[D, K]; `calls` lists the batches it was given."""

    def __init__(self, features: int, classes: int, lr: float = 0.5):
        self.w = np.zeros((features, classes), np.float32)
        self.lr = lr
        self.calls: list[tuple[np.ndarray, np.ndarray]] = []

    def prepare(self, batch):
        self.prepared = [*getattr(self, "prepared", []), batch]

    def step(self, images, labels):
        self.calls.append((images, labels))
        flat = images.reshape(len(images), -1)
        scores = flat @ self.w
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        loss = float(-np.log(p[np.arange(len(labels)), labels]).mean())
        p[np.arange(len(labels)), labels] -= 1
        self.w = self.w - self.lr * flat.T @ p / np.float32(len(labels))
        return loss, scores

    def scores(self, images):
        return images.reshape(len(images), -1) @ self.w

    def weights(self):
        return {"w": self.w}

    def save(self):
        return self.w.copy()

    def restore(self, saved):
        self.w = saved.copy()

    def first_not_finite(self, images, labels):
        return "w" if not np.isfinite(self.w).all() else "scores" if not np.isfinite(self.scores(images)).all() else ""
