"""Nets and their files: reference architectures, other libraries' nets, checkpoints.

``models`` builds the reference nets, ``adapters`` brings in those of other libraries, ``weights``
and ``weights_file`` find and read weights, ``checkpoints`` puts them together.
"""
