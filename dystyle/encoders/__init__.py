"""Networks and optimisation that turn portraits into W+ codes."""
