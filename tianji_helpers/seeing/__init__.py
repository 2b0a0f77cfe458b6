"""Notebook 07: cards that are drawn, pictures from outside, a tower, rows with a picture, controls.

``cards`` and ``material`` make what is trained on; ``pictures``, ``tower`` and ``rows`` turn it into what
the tower says; ``stages`` trains (the model is ``training.xtuner_compat.LLaVAModel``), ``eyes`` asks, and
``measure`` tells whether it looks. Nothing here judges wishes beyond that.
"""
