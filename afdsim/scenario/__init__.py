"""One YAML file as one frozen tree, strict, and back.

yamlfile      YAML with positions, written back as it came
leaves        types of values: amounts with units, names, choices
part          what every map of keys is
asked         keys of what is asked: workload and SLA
tree          every other key: type, range, default
cabling       NICs that a network names and GPUs share, and whether a deployment has them
caching       KV cache in blocks: what a request holds, and what preemption costs
conversing    sessions of several turns, several answers to a prompt, and what goes with neither
failing       crashes and repairs: what fails, and what then happens
prefilling    prefill servers in front of the deployment, and what does not fit them
routing       a router in front of several cells
divisions     what does not divide over GPUs, and the nearest degrees that do
extents       how large a scenario may be as a whole
words         words of other tools: ours, or that it is not modelled
complaints    what is wrong with a file, where, and the way out
jsonschema    the tree as a JSON schema, for editors and the docs
streams       random numbers by seed, kind and step
document      the scenario: loading, varying, its key
requests      what a workload asks for, as arrivals and laws of lengths
formats       number formats in force, and who asked for each
"""
