"""What happens when.

variation              jitter, stragglers and skew of a run
drafts                 tokens that speculation drafts and accepts
causes                 why a resource stood still
program                a deployment with attention and FFN apart, lowered to tables
record                 what a run leaves: boundaries, requests, ledger
colocated_causes       why a colocated unit stood still
colocated_program      a colocated deployment, lowered to tables
colocated_compiler     from a scenario to that
compiler               from a scenario to a program
batching               who sits in which micro-batch
admission              who is let in, and when
kernel                 layers of a step as a recurrence
colocated_kernel       the same for colocated instances
processes              layers of a step as SimPy processes
colocated_processes    the same for colocated instances
clock                  a run on the SimPy clock
seating                batching and admission over flat arrays
compiled               whole steps over flat arrays
native                 machine code of those, kept on disk
compiled_run           a run without a clock
"""
