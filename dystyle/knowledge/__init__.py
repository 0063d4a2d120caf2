"""Pretrained networks that read attributes and identity off a face."""
