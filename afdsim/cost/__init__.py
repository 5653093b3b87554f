"""Seconds of an operator on a GPU, and where they come from.

operators     FLOPs and bytes of every kernel of a layer
prompts       the same of prompts: kernels over chunks of unlike lengths
roofline      the cost model: a roofline with fitted coefficients
table         a cost model of measured points
checked       cost and network models of the caller's, every answer checked
identity      a digest of an object of the caller's
all_to_all    dispatch and combine of expert parallelism, measured and interpolated
stages        what each role of an AFD deployment computes and sends in a layer
loads         of the busiest GPUs, a few for all layers
envelope      what no schedule of a deployment can beat, by batch
fitting       coefficients from measured kernels
probes        kernels at the shapes of decoding, as PyTorch runs them
measure       kernels timed on this machine's GPU
anatomy       the time of a layer, taken apart
theory        the closed-form cost analysis of the Step-3 paper
survey        models x accelerators x contexts of that analysis
"""
