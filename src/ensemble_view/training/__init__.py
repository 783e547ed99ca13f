"""Train the reference nets."""
