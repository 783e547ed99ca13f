"""Deletions beside a control."""
