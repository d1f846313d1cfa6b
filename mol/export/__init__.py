"""Trained networks as files that run without this program: torch.export, ONNX, compiled C++."""
