"""Vendors' request and reply shapes, as their documentation has them; one module each."""

from distill_client.mock.shapes.chat import ChatShape
from distill_client.mock.shapes.huggingface import HuggingFaceShape
from distill_client.mock.shapes.open_inference import OpenInferenceShape
from distill_client.mock.shapes.shape import Mocked, Reply, Request, Shape, Unreadable
from distill_client.mock.shapes.tf_serving import TfServingShape
from distill_client.mock.shapes.torchserve import TorchServeShape
from distill_client.mock.shapes.vision import VisionShape

SHAPES: dict[str, type[Shape]] = {
    "open-inference": OpenInferenceShape,
    "huggingface": HuggingFaceShape,
    "tf-serving": TfServingShape,
    "torchserve": TorchServeShape,
    "openai-chat": ChatShape,
    "vision": VisionShape,
}

__all__ = ["SHAPES", "Mocked", "Reply", "Request", "Shape", "Unreadable"]
