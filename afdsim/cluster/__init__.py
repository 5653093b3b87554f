"""Where things are, what fits, and how ports share.

deployment    attention and FFN pools: GPUs, cuts of the weights, memory
colocated     instances that hold attention and experts together: the same for them
network       seconds that a message occupies a NIC port
topology      GPUs, NICs, rails and switches, and who meets whom
experts       how popular experts are, where their copies lie, how loaded their GPUs are
"""
