"""The core: interventions on a chain of blocks, and the engine that runs them. Read this first.

``interventions`` say what to change, as values; ``chain`` holds the blocks and ``parts`` what they
are made of; ``plan`` binds an intervention to a chain, and ``trie`` shares the prefixes of many
plans; ``engine`` runs the trie over batches, with operations merged by ``fusion`` and what a block
runs instead put together by ``alteration``. ``sites`` names the additions of a model.
"""
