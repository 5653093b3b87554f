"""The command line: it parses, calls, and alone prints.

bench      afdsim bench
compare    afdsim compare
cost       afdsim cost and its kin, validate, calibrate
sweep      afdsim sweep
main       the command itself, run, and what the rest hangs on
"""
