"""Weights for other programs: ONNX files and MONAI bundles, without names of scans."""
