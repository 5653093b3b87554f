"""One YAML file as one frozen tree, strict, and back.

yamlfile      YAML with positions, written back as it came
leaves        types of values: amounts with units, names, choices
tree          every key: type, range, default
complaints    what is wrong with a file, where, and the way out
document      the scenario: loading, varying, its key and its streams
"""
