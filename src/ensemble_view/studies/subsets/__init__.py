"""Run every subnetwork of some blocks."""
