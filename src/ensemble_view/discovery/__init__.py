"""From a model to a chain that is proved equal to it, or a refusal that says why.

``capture`` exports the model into one functional graph whose nodes know their place in the code;
``dataflow`` finds the trunk; ``residual_forms`` writes what is summed on it as additions;
``blocks`` finds the residual ones; ``streams`` refuses nets that are no chain; ``cutting`` makes a
chain of the pieces; ``proof`` holds it to the model; :func:`unravel` puts them together.
"""
