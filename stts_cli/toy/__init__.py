"""The procedural video world: coloured shapes that stand, move, appear, vanish and change colour.

It trains and tests the embedded model offline. Everything is drawn from seeds: the same (split, index, length) is the
same clip on any machine. Nothing here is a real video, and no figure measured on it says anything about real video.
"""
