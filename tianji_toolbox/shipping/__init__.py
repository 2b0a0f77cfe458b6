"""After the course: export, publishing, the demo page, and the same page on a platform.

Not here: training, and any upload that nobody confirmed.
"""
