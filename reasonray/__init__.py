"""reasonray."""
