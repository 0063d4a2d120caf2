"""Losses, data and loops behind `python -m dystyle.train`."""
