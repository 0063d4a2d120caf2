"""A server for many: `python -m dystyle.serve`, on Ray Serve."""
