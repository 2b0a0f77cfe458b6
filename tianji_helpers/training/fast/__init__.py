"""The same training in less time: attention of packed samples, operations fused, activations kept or not.

``acceleration`` puts the fast paths into a model; what does not apply to a model stays as it was.
Not here: anything that changes what is learned.
"""
