"""Exchange of networks with other programs: import of published weights, export to ONNX and torch.export."""
