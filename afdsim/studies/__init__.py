"""Many runs: axes, cache, workers, published figures.

grid          points of a sweep, from axes of values
points        the outcome of a point, cached under its key
pool          fresh Python processes as an executor
sweeps        every point of a grid as a frame or a folder
ranking       points of a sweep, the best under the SLA first
telling       a sweep in words: figures, axes, standings, the best point
steadying     the same arrivals for longer, until a load is steady
differences   one figure of two deployments, with its interval
tuning        the best way to run one deployment, by a quick search
scaling       the same requests at another rate
guessing      what a cluster might carry, by quick measures
binding       what keeps a run from being carried
capacity      the largest request rate, or batch, that meets the SLA
marginal      one more instance of each role
layouts       cells, of which a planner chooses
asking        what a planner is asked, as scenarios without a deployment
choosing      the best of them, or the best fleet, under a budget
bounding      what a cell gives at most
trials        what a cell gives: at most, by a quick measure, by a run
candidates    what a cell stands for under all workloads of a question
pods          prefill servers, and what to put behind them
choices       cells that are best together
searching     tries what would be best until it has been run
moving        a workload before and after it moves
sizes         sizes of one deployment, by instances and cells
resizing      the smallest change of a deployment when its workload moves
planner       which deployment to buy, by simulation
comparison    deployments side by side
pages         sweeps, comparisons, plans and searches for capacity as pages
reporting     what a folder holds, as a page
validation    published figures against ours
pairs         the AFD pairs of the theory, simulated
bench         speed of the engines
verifying     a saved result, run again and compared
recording     one run and the timeline of a part of it
"""
