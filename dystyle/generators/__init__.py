"""Networks that turn codes into pictures, and loaders of their public formats."""
