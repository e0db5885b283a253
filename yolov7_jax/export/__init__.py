"""Deployed models as files that others run: StableHLO, ONNX, safetensors and PyTorch's format.

`export_model.export_model` writes a file, loads it back as its users would, and compares. Each
format is a module with two functions: `write` makes the file, `load` gives back what it computes.
"""
