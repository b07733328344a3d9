"""Ask questions of videos with fewer tokens: the method of arXiv 2603.18004 behind one command line.

Importing this package imports nothing heavy: torch and transformers load when a command first needs them.
"""

__version__ = "0.1.0"
