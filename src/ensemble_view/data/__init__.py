"""Data sets, batches and what is known of them."""
