"""The method inside vLLM: a plug-in that serves Qwen3-VL with windows dropped in its vision encoder; see README.md.

vLLM loads `plugin.register` by its entry point in every process it starts. Nothing here needs our families: the model
is vLLM's own, the method is `pruning`'s. Positions, counts and rows are plain functions (rows.py), vLLM's classes are
extended in qwen3_vl.py.
"""
