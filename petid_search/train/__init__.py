"""Training: from a folder of photos to a model."""
