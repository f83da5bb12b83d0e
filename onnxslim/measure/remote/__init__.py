"""What runs inside the worker process while something is measured: numpy and onnxruntime only."""
