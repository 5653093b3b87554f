"""Many runs: axes, cache, workers, published figures.

grid          points of a sweep, from axes of values
points        the outcome of a point, cached under its key
pool          fresh Python processes as an executor
sweeps        every point of a grid as a frame or a folder
ranking       points of a sweep, the best under the SLA first
steadying     the same arrivals for longer, until a load is steady
differences   one figure of two deployments, with its interval
tuning        the best way to run one deployment, by a quick search
marginal      one more instance of each role
layouts       cells, of which a planner chooses
choosing      the best of them, or the best fleet, under a budget
bounding      what a cell gives at most
trials        what a cell gives: at most, by a quick measure, by a run
planner       which deployment to buy, by simulation
comparison    deployments side by side
validation    published figures against ours
pairs         the AFD pairs of the theory, simulated
bench         speed of the engines
recording     one run and the timeline of a part of it
"""
