"""Networks from and for other programs: published weights in, ONNX and torch.export out."""
