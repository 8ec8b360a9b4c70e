"""The commands of `sat-peft`, one file each: options (`Config`), `main`, and what is told after Ctrl-C.

Importing them imports nothing heavy, so that --help and a mistyped option answer at once.
"""
