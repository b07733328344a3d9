"""The safety net: what the program does on the embedded model, held against another commit or a committed record.

`python -m tests.net OLD NEW` runs two commits on this machine, one after the other, and reports every value that is not
bit-equal; `.` is the working tree. `python -m tests.net --record [COMMIT]` writes recorded.json.
test_net.py compares some cases of the working tree with it: counts and answers exactly, scores and losses within 1e-4,
masks but for windows within 1e-4 of the cut.

worker.py is what runs on a commit. It drives the command line; only its `probe` calls a module of the program.
"""
