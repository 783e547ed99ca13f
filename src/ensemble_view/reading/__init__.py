"""Read files that nobody vouches for: what is allocated is bounded first, and nothing blocks.

What every reader of a file shares: whether there is a file at all (``regular``), JSON
(``json_text``), zip archives (``archives``), and arrays in them (``arrays``). No torch here.
"""
