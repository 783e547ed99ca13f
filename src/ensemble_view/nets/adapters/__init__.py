"""Nets of other libraries and of other kinds of file, each brought in by an adapter of its own.

Beside discovery this is the only place that knows other people's libraries and families: by name
(``torchvision_models``, ``timm_models``, ``transformers_models``, ``hub``), for weights from a file
(``architectures``), and programs instead of weights (``exported``, ``scripted``). Each says with
the net what its source knows about the input.
"""
