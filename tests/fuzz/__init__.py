"""Mutated inputs of every kind that afdsim reads: each is a valid run, or one short message. `python -m tests.fuzz`.

values       what is put in place of a value
mutations    text, trees, tables and bytes, changed at random
targets      what is read: good inputs of every kind, and the command that reads each
trial        one mutated input in a folder of its own, and what became of it
"""
