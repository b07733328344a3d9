"""Rows of questions and videos, read one way for `ask`, `eval` and `finetune`."""
