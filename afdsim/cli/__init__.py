"""The command line: it parses, calls, and alone prints.

folders    folders of answers, and what is told on the way to them
scenarios  what the commands about scenarios share: options, loading, warnings
bench      afdsim bench
capacity   afdsim capacity
compare    afdsim compare
tables     what the commands about models and cost share: options and aligned tables
cost       afdsim cost
explain    afdsim explain, validate, calibrate
executors  who runs many simulations: processes, or a Dask cluster
sweep      afdsim sweep
plan       afdsim plan
resize     afdsim resize
init       afdsim init
lists      afdsim list
check      afdsim check
main       the command itself: run, schema; what the rest hangs on
"""
