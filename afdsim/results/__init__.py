"""What a run says: pure functions of columns.

whole                files that are whole or not there
bottleneck           what bounds a step, from its schedule
intervals            how sure a figure of one run is
steady               whether an open loop was steady and carried its load
metrics              statistics of a run, as definitions
spread               latencies as rows of percentiles
prefilled            what prefill adds to the columns of a run
mixed                what prompts inside decode steps add to them
blame                whom the GPUs waited for
critical             the critical path of a step, and slack
outages              what crashes did to a run
caching              who was preempted for want of KV cache
conversed            what sessions were, and what became of their KV cache between turns
summary              a run as one tree of numbers
pooling              the same of several seeds
plot_axes            axes that show themselves, and how they are written
plot_parts           axes, colours, legends, files of figures
plot                 figures of runs
header               what was simulated, as text
blaming              whom the GPUs waited for, as text
plot_time            figures over simulated time: GPU use, queue, pipeline
plot_accounts        what was lost and paid for: culprits, cost, roofline
plot_sweep           figures of sweeps
plot_plan            layouts of a plan, and the points of a search for capacity
watched              GPU use over time
outcome              columns of a run, from its record
excerpt              three layers of a step, from a sample
cells                the cells behind a router as one run
remarks              what a reader should know about a run
gallery              the figures of one result
operators            what one layer of a run computes, operator by operator
inline               pictures as SVG inside a page
page                 figures, tables and text as one HTML file
exhibits             pictures of a report, each with its sentence and its table
glossary             words of a report
report               runs as a page
result               the result: summary, frames, files
seeds                several seeds of one scenario in one folder
portrait             what a language model is and where it fits, as text
ink                  styles, tables and sparklines
classed              classes of requests, as text
terminal             the report as text
timeline             spans of a window of a run
chrome               a timeline as a Chrome trace
"""
