"""What happens when.

watch         who computed when, in slices of the time
books         where the seconds of a step went, and the ledger of a run
schedule      a step of a cell as a static list of turns
samples       a few steps of a run, evenly spread over it
variation     jitter and stragglers of a run, from keyed streams
normals       standard normal numbers of keyed streams, for machine code
drafts        tokens that speculation drafts and accepts
prefixes      prompts that begin alike: what of them is in a KV cache
sessions      turns of sessions: who comes next, and whose KV cache lies where between two turns
seats         who sits in which micro-batch: continuous batching, admission, KV accounting
population    how a closed loop begins
chunks        prompts inside decode steps: what a step computes of them
returns       turns of sessions at a boundary: whose session goes on, who comes back, what is there
turnover      the boundary of a lane: who leaves, gives blocks back, joins
tables        seconds as the engines look them up, and what a lane's membership costs
passes        operators of one GPU of each role in a pass: what shares of peak count
prompts       seconds of a prefill step
reuse         prompts that begin alike, at prefill ranks
prefill       prompts at prefill servers: queues, steps, KV caches on their way
faults        what crashes when, and how long the cell stands still
interruption  what an outage does to those who sit and wait
record        what a run leaves: boundaries, requests, causes
cell          a lowered deployment, and what every lowering needs
mixing        prompts inside decode steps: what they cost
servers       prefill servers of a scenario, lowered
culprits      whom a unit that waits may blame
capacity      what a deployment offers to requests, and which of them could have it
fabrics       NICs and uplinks of a scenario, as seconds of a row and counters
crashes       what may crash in a cell, from the scenario
afd           attention-FFN disaggregation as a schedule
colocated     expert and tensor parallelism as a schedule
lowering      from a scenario to its cell, whatever its kind
advice        ways out of a deployment that does not fit, each tried
recurrence    whole steps over flat arrays, for machine code
native        machine code of those, kept on disk
blank         constants of a run, and its memory while nothing has happened
standstill    what an outage makes of books, resources and requests
desk          what both engines share of a run
handover      from prompts to decode and back
closing       whether an open loop goes on after its last arrival
blocks        a run by the recurrence (engine `kernel`), block by block of steps
processes     the turns of a schedule as SimPy processes
clock         a run by the processes (engine `processes`) on the SimPy clock
fleet         cells behind a router
users         a closed loop behind prefill servers
"""
