"""Run the networks as engines, without PyTorch once they are built."""
