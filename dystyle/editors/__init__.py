"""Networks that edit W+ codes for a configuration of attributes."""
