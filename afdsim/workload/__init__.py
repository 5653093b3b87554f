"""Who asks, when, and for what.

rates     arrival rates that change: bursts and curves, drawn by a change of time
laws      laws of arrivals and lengths, and requests as endless columns
prefixes  which prompts begin alike
sessions  conversations of several turns: how many, what is said in them, how long people think
files     files of records of any shape: opened, unpacked, decoded and cut into records
formats   formats of recorded requests, and how the format and the unit of a file are told
traces    files of recorded requests, read as arrivals and lengths or as lengths alone
"""
