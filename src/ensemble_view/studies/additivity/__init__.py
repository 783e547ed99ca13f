"""Delete random sets: which share of what they do adds up over blocks and over pairs."""
