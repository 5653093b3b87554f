"""What is served on what: language models, GPUs, and their published figures.

llm            models as layers of attention and FFN; bytes of weights, KV cache and tokens
hardware       GPUs and their NICs
huggingface    a model read from a Hugging Face config.json
entries        reads the models and GPUs of afdsim/data, by name
"""
