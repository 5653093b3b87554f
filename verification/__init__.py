"""Checks of afdsim against independent answers, which a stranger can run and look at: python -m verification.

They stand apart from the tests: each compares a run with an answer that comes from elsewhere (a closed form, another
simulator, a definition written down once more), draws one picture, and gives one row of a table of verdicts. Nothing of
this is in the package; the small deployments are those of the tests.

checks      what a check is, what it finds, the parts that pictures share
queues      servers of the textbooks, as afdsim has them and as theory has them
waits       mean waits and their distribution, against queueing theory
other       the same queues in Ciw, another simulator
pipeline    steps and bubbles, against closed forms
estimate    steps, against the closed form of an estimator
flows       exchanges, against maximum flows of the graph of the network
ports       shared ports, against their definition, event by event
jitter      what is drawn, and the slowest of several ranks, against theory
little      Little's law over deployments of every kind
engines     the two engines against one another, bit for bit
oracles     runs against simulators that were written from the model's text alone
memory      what a process holds while it runs long, or does the same again and again
soak        ten simulated hours and many repetitions, against the bytes of what is recorded
suite       all checks in their order
page        the page of the documentation
"""
