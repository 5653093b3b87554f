"""The command line: it parses, calls, and alone prints.

bench      afdsim bench
compare    afdsim compare
cost       afdsim cost, explain, validate, calibrate
sweep      afdsim sweep
main       the command itself: run, check, init, list, schema; what the rest hangs on
"""
