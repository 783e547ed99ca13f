"""What is measured of each example, and how: the engine is given a measure and knows none.

``classification``: one label per example; ``logits`` keeps those beside it. ``language``: the next
token, summed per sequence. ``own``: what a user's own function says; ``change``: how far outputs
are from the full net's. Imports nothing of ours but
errors; knows neither chains nor plans.
"""
