"""Loads checkpoints: formats, families, quantization, and whether they fit into memory."""
