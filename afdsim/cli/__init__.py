"""The command line: it parses, calls, and alone prints.

completion afdsim completion, and the names that a shell completes
stopping   Ctrl-C and SIGTERM: a message, an exit code, and what is kept
scenarios  what the commands about scenarios share: options, loading, warnings
folders    folders of answers, and what is told on the way to them
bench      afdsim bench
capacity   afdsim capacity
compare    afdsim compare
tables     what the commands about models and cost share: options and aligned tables
cost       afdsim cost
explain    afdsim explain, validate, calibrate
executors  who runs many simulations: processes, or a Dask cluster
sweep      afdsim sweep
plan       afdsim plan
report     afdsim report
resize     afdsim resize
init       afdsim init, schema
lists      afdsim list
check      afdsim check
verify     afdsim verify
main       the command itself: run; what the rest hangs on
"""
