"""What can be loaded: formats, families, quantization, and whether it fits."""
