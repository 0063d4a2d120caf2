"""Metrics and contact sheets behind `python -m dystyle.evaluate`."""
