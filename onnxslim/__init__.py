"""Make an exported ONNX model smaller and faster, and prove that the result is right."""

__version__ = "0.1.0"
