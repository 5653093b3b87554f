"""What a run says: pure functions of columns.

metrics              statistics of a run, as definitions
plot                 figures
outcome              columns of a run, from its record
remarks              what a reader should know about a run
result               the result: summary, frames, files
terminal             the report as text
timeline             spans of a window of a run
chrome               a timeline as a Chrome trace
"""
