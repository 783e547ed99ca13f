"""Edited nets: hooks on the unmodified model, and nets of their own of what is left.

``hooks`` edit the model for the length of a ``with``, one forward pass per plan, and are what the
engine is held against; ``extraction`` makes a net of its own of what a plan leaves, ``shortening``
takes blocks out of a known architecture, ``extracted_files`` writes and reads such nets.
"""
