"""The Open Inference Protocol v2 (KServe, Triton), REST, with the binary tensor and classification extensions."""
