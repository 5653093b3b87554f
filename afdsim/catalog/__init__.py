"""What is served on what: language models, GPUs, and their published figures.

llm            models as layers of attention and FFN; bytes of weights, KV cache and tokens
parameters     what a model is, in numbers: parameters in all and per token, layers by kind
hardware       GPUs and their NICs
config         the keys of one config.json, read with a check each
jsonfile       one JSON file; what is no config of a decoder is named as what it is
mixers         what mixes tokens in each layer, for every way that families lay it out
ffns           the FFN of each layer, dense or MoE
hybrids        models with Mamba, and others that pair no mixer with an FFN by rule
families       which reader and which keys belong to a model_type
quantisation   the dtype of a quantised checkpoint
ledger         keys that change layers, of all families: read or refused
huggingface    a model read from a Hugging Face config.json
entries        reads the models and GPUs of afdsim/data, by name
"""
