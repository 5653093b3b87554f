"""Where things are, what fits, and how ports share.

memory        HBM as engines count it: their reserve, what a sequence takes, what fits
deployment    attention and FFN pools: GPUs, cuts of the weights, memory
colocated     instances that hold attention and experts together: the same for them
prefill       servers that compute prompts only: the same for them
degrees       degrees of parallelism that a model and a GPU allow, and the nearest that they do
network       how NIC ports share: a ladder of disciplines, and the wiring they read
topology      GPUs, NICs, rails and switches, who meets whom, through which ports
experts       how popular experts are, where their copies lie, how loaded their GPUs are
"""
