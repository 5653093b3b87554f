"""Commands that are killed while they work: nothing is torn, nothing is lost, no process is left. `python -m tests.kills`.

processes    commands with all that they start, found by a mark in their environment, and signals to them
commands     what is killed: a command of every kind, with what it keeps and what may be killed of it
cluster      a Dask cluster that the commands of a whole exercise share
files        whether files are whole, and the same but for what names the time
shelf        every command undisturbed, once: how long it takes and what it leaves
trial        one kill at one moment, and the laws that it breaks
"""
