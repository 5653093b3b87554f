"""The command line: it parses, calls, and alone prints.

bench      afdsim bench
compare    afdsim compare
tables     what the two below share: options and aligned tables
cost       afdsim cost
explain    afdsim explain, validate, calibrate
sweep      afdsim sweep
init       afdsim init
main       the command itself: run, check, list, schema; what the rest hangs on
"""
