"""The science: classifiers, data sets, zoo, DiHyFo, sampler, audit, baselines.

Knows nothing of HTTP, Redis or SQL.
"""
