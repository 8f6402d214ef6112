"""A bundle as a model of MLServer, run in MLServer's own environment by `benchmarks/foreign_server.py`.

Requests, batches, threads and counts are MLServer's. Only the network is ours: the same weights on the same torch.
"""

from pathlib import Path
from typing import Any

import mlserver  # type: ignore[import-not-found]
import numpy as np
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from prometheus_client import Counter  # type: ignore[import-not-found]

from teacher_server.teachers.bundle import load_bundle
from teacher_server.teachers.classifier import load_classifier


class BundleModel(mlserver.MLModel):  # type: ignore[misc]
    """Answers a whole batch at once."""

    async def load(self) -> bool:
        """Read the bundle that the model's settings name."""
        self._classifier = load_classifier(load_bundle(Path(self.settings.parameters.uri)))
        # Beside what MLServer counts itself, which is requests; here, because it imports this file twice.
        self._images = Counter("images_answered", "Images that were answered", ["model"])
        return True

    async def predict(self, payload: Any) -> Any:
        """Probabilities to six decimals, as our own server gives them."""
        images_nhwc = NumpyCodec.decode_input(payload.inputs[0]).astype(np.uint8)
        probabilities_nk = self._classifier.probabilities(images_nhwc).astype(np.float64).round(6)
        output = NumpyCodec.encode_output("probabilities", probabilities_nk)
        self._images.labels(model=self.name).inc(len(images_nhwc))
        return mlserver.types.InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
