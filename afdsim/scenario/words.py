"""Words that users of other tools try: what afdsim calls them, or that it does not model what they stand for.

Never a silent alias: a key, a path or an axis of such a name is refused, with what is here told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

_POOLS = ("deployment.attention", "deployment.ffn", "deployment")
"""Where a word for the servers belongs: AFD has two pools, every other deployment is one."""

_HARDWARE = tuple(f"{pool}.gpu" for pool in _POOLS)
_INSTANCES = tuple(f"{pool}.instances" for pool in _POOLS)
_SERVER = tuple(f"{pool}.gpus_per_instance" for pool in _POOLS)
_DP = ("deployment.attention.parallelism.dp", "deployment.parallelism.dp")
_TP = (
    "deployment.ffn.parallelism.tp",
    "deployment.attention.parallelism.tp",
    "deployment.parallelism.tp",
    "deployment.gpus",
)
_EP = ("deployment.ffn.parallelism.ep", "deployment.ep", "deployment.instances")
_OVERLAP = ("deployment.num_microbatches", "deployment.two_batch_overlap")
_KERNELS = tuple(f"{pool}.kernels" for pool in _POOLS)

_NAMES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("faults fault_injection outages crashes", ("failures",)),
    ("mttr", ("failures.repair",)),
    ("router_policy routing_policy load_balancer load_balancing global_scheduler", ("router.policy",)),
    ("replicas num_replicas replica cluster_num_replicas data_parallel_replicas", ("router.replicas",)),
    # workload
    ("isl input_length prompt_len random_input_len", ("workload.input_len",)),
    ("context_len context_length prompt_tokens", ("workload.input_len",)),
    ("osl output_length random_output_len max_tokens", ("workload.output_len",)),
    ("max_new_tokens decode_tokens", ("workload.output_len",)),
    ("num_prompts request_count", ("workload.num_requests",)),
    ("qps rate rps arrival_rate", ("workload.arrival.request_rate",)),
    ("max_concurrency num_users", ("workload.arrival.concurrency",)),
    ("dataset dataset_path trace_file trace_path", ("workload.trace.path",)),
    ("time_scale_factor", ("workload.trace.time_scale",)),
    ("prefix_caching prefix_cache radix_cache prefix_sharing", ("workload.prefix",)),
    ("prefix_len random_prefix_len", ("workload.prefix.tokens",)),
    ("num_prefixes", ("workload.prefix.groups",)),
    ("session multi_turn conversation conversations multi_round", ("workload.sessions",)),
    ("n best_of num_samples samples_per_prompt num_return_sequences", ("workload.samples",)),
    ("num_turns rounds num_rounds", ("workload.sessions.turns",)),
    ("inter_turn_delay thinking_time", ("workload.sessions.think_time",)),
    ("ramp_up_strategy ramp_up_start_rps ramp_up_end_rps ramp", ("workload.arrival.points",)),
    ("bursts on_off mmpp_states", ("workload.arrival.states",)),
    # KV cache
    ("block_size page_size kv_block_size", ("kv_cache.block",)),
    ("preemption_mode recompute", ("kv_cache.preemption",)),
    # deployment
    ("batch_size max_batch_size a_batch_size decode_bs", ("deployment.max_num_seqs",)),
    ("batch_size_cap max_running_requests", ("deployment.max_num_seqs",)),
    ("num_ubatches num_micro_batches microbatches enable_dbo", _OVERLAP),
    ("dp_size data_parallel_size attention_dp_size", _DP),
    ("tp_size tensor_parallel_size moe_tp_size", _TP),
    ("ep_size expert_parallel_size enable_expert_parallel moe_ep_size", _EP),
    ("nodes num_nodes a_nodes n_a_nodes", _INSTANCES),
    ("f_nodes n_f_nodes", ("deployment.ffn.instances",)),
    ("gpus num_gpus gpus_per_node num_gpus_per_node", _SERVER),
    ("hardware device gpu_type system", _HARDWARE),
    ("cpu_overhead scheduler_overhead", ("deployment.host_overhead",)),
    ("attention_backend", _KERNELS),
    ("moe_backend moe_runner_backend", _KERNELS[1:]),
    ("all2all_backend moe_a2a_backend deepep_mode", ("deployment.all_to_all",)),
    ("num_redundant_experts ep_num_redundant_experts", ("deployment.redundant_experts",)),
    ("eplb enable_eplb", ("variation.experts.placement",)),
    ("num_speculative_tokens num_nextn_predict_layers", ("deployment.mtp.draft",)),
    ("acceptance_rate", ("deployment.mtp.acceptance",)),
    # model and network
    ("llm model_name model_path model_id", ("model",)),
    ("dtype quantization", ("precision",)),
    ("kv_cache_dtype", ("precision.kv_cache",)),
    ("network_bandwidth interconnect_bandwidth nic_bandwidth", ("network.link.bandwidth",)),
    ("network_latency link_latency", ("network.link.latency",)),
    ("oversubscription_ratio oversub", ("network.uplinks.oversubscription",)),
    ("nics num_nics nics_per_node nics_per_server", ("network.nics_per_instance",)),
    ("split_qp_lag", ("network.link.split",)),
    # prefill
    ("num_prefill disaggregation disaggregation_mode pd_disaggregation", ("prefill",)),
    ("prefill_instances prefill_replicas prefill_workers", ("prefill.instances",)),
    ("chunked_prefill chunked_prefill_size chunk_size long_prefill_token_threshold", ("prefill.chunk",)),
    ("max_num_batched_tokens max_prefill_tokens", ("prefill.max_batched_tokens", "prefill.chunk")),
    ("enable_chunked_prefill enable_mixed_chunk mixed_chunk piggyback", ("prefill.mode",)),
    ("kv_transfer kv_transfer_config kv_connector disaggregation_transfer_backend", ("prefill.overlap",)),
    ("kv_transfer_bandwidth", ("network.link.bandwidth",)),
    # limits and the run
    ("slo", ("sla",)),
    ("slo_class tenant tenants slo_classes request_classes", ("workload.classes",)),
    ("goodput tpot_slo slo_tpot target_tpot", ("sla.tpot",)),
    ("time_to_first_token mean_ttft_ms ttft_slo slo_ttft target_ttft first_token", ("sla.ttft",)),
    ("e2e e2e_latency request_latency", ("sla.e2el",)),
    ("price gpu_price usd_per_hour", ("cost",)),
    ("jitter", ("variation",)),
    ("seed", ("run.seeds",)),
    ("time_limit", ("run.stop.max_sim_time",)),
    ("num_warmups", ("run.warmup",)),
)
"""Words of other tools -> the paths that they may mean; the first that the scenario can have is named."""

_TOPICS: tuple[tuple[str, str], ...] = (
    (
        "rate_scale speedup_ratio replay_speed",
        "a rate of replay is not modelled as such: 'workload.trace.time_scale' is 1 over it, 0.5 replays twice as fast",
    ),
    (
        "itl inter_token_latency",
        "a limit on single gaps is not modelled; 'sla.tpot' limits their mean over a request, and every run prints ITL",
    ),
    (
        "hash_ids",
        "shared blocks of a trace are not modelled; 'workload.prefix' draws groups of prompts that begin alike",
    ),
    (
        "mem_fraction_static",
        "a share of HBM for weights and KV cache alone is not modelled: without activations, it is a little lower than "
        "'deployment.gpu_memory_utilization', which includes them",
    ),
    (
        "memory_margin_fraction",
        "a share of HBM that is left free is not modelled: 'deployment.gpu_memory_utilization' is 1 minus it",
    ),
    (
        "swap_space cpu_offload_gb cpu_offload kv_offload kv_offloading_size hierarchical_cache hicache lmcache",
        "offloading is not modelled: KV caches stay in HBM, but for those of preempted requests with "
        "'kv_cache.preemption'; 'deployment.max_num_seqs' limits how many",
    ),
    (
        "watermark watermark_blocks_fraction",
        "a watermark is not modelled: as in version 1 of vLLM a request joins when its blocks are free, and who came "
        "last makes room where 'kv_cache.policy' lets contexts grow",
    ),
    (
        "autoscaling autoscaler max_replicas min_replicas scale_up scale_down",
        "autoscaling is not modelled: a deployment stays as it is; sweep its instances against "
        "'workload.arrival.request_rate'",
    ),
    (
        "power power_limit power_cap energy tdp carbon thermal clock clocks",
        "power and clocks are not modelled: a GPU keeps the clock of its measured kernels; 'variation.straggler' slows "
        "an instance, 'cost' prices its hours",
    ),
    (
        "speculative speculative_config speculative_algorithm spec_decode draft_model eagle medusa ngram",
        "a draft model of its own is not modelled; 'deployment.mtp' has drafts by multi-token prediction",
    ),
    (
        "pipeline_parallel_size pipeline_parallel pp_size pp num_pipeline_stages",
        "pipeline parallelism is not modelled: an instance holds all layers; 'deployment' splits sequences (dp), heads "
        "and widths (tp), and experts (ep)",
    ),
    (
        "context_parallel context_parallel_size cp_size cp decode_context_parallel_size sequence_parallel sp_size",
        "context parallelism is not modelled: a context lies on one rank; 'deployment' splits sequences (dp) and heads "
        "(tp)",
    ),
    (
        "lora lora_modules max_loras max_lora_rank adapters",
        "adapters are not modelled: every request uses the weights of 'model'",
    ),
    (
        "scheduler scheduler_config scheduling_policy schedule_policy scheduler_type priority",
        "other schedulers are not modelled: first come, first served, at the rank and micro-batch with the fewest "
        "sequences; 'deployment.max_num_seqs' limits a rank",
    ),
    (
        "num_blocks num_gpu_blocks_override total_kv_blocks",
        "a number of blocks is not modelled: it follows from 'deployment.gpu_memory_utilization' and 'kv_cache.block'",
    ),
    (
        "tokenizer tokenizer_mode detokenizer async_scheduling",
        "tokenizer and scheduler are not modelled; 'deployment.host_overhead' is the time that they take in every step",
    ),
    (
        "beam_width num_beams beam_search temperature top_p sampling_params ignore_eos",
        "sampling parameters are not modelled: a request has an answer of 'workload.output_len' tokens",
    ),
    (
        "max_model_len max_seq_len max_position_embeddings",
        "a limit on contexts is not modelled, but for memory; 'workload.input_len' and 'workload.output_len' set them",
    ),
    (
        "cuda_graph cuda_graph_sizes cuda_graph_max_bs eager enforce_eager torch_compile compilation_config",
        "launch modes are not modelled: kernels cost what was measured; 'deployment.framework_overhead' (colocated) "
        "adds to it",
    ),
    (
        "timeout deadline max_queue_len max_queued_requests rate_limit",
        "nobody gives up waiting: time-outs are not modelled; 'sla.e2el' limits arrival to last token",
    ),
    (
        "topology fabric switch spine congestion",
        "a fabric of any shape is not modelled: NICs of a rail hang under one switch, or with 'network.uplinks' those "
        "of attention and of FFN under one each; 'network.link' is a NIC and its path",
    ),
)
"""Words, and the sentence that answers each of them: what is not modelled, and in quotes the nearest that is."""

OURS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {word: paths for words, paths in _NAMES for word in words.split()}
)
"""Word -> the paths that it may mean."""

ABSENT: Mapping[str, str] = MappingProxyType({word: text for words, text in _TOPICS for word in words.split()})
"""Word -> the sentence that answers it."""


def hint(word: str, parent: str, possible: Callable[[str], bool]) -> str:
    """Return what to say of a word of another tool, from the semicolon on; nothing for a word that is none.

    `parent` is the path of the map in which it was found, `possible` whether a scenario of this kind has a path.
    """
    word = _plain(word)
    if word in ABSENT:
        return f"; {ABSENT[word]}"
    paths = [path for path in OURS.get(word, ()) if possible(path)] or list(OURS.get(word, ()))
    near = [path for path in paths if path.startswith(f"{parent}.")]
    return "".join(f"; afdsim calls it {path.removeprefix(f'{parent}.')!r}" for path in (near or paths)[:1])


def _plain(word: str) -> str:
    """Return a word as the tables have it: ``--enable-prefix-caching`` as ``prefix_caching``."""
    plain = word.strip().lstrip("-").replace("-", "_").casefold()
    known = (plain, *(plain.removeprefix(prefix) for prefix in ("no_enable_", "enable_", "disable_", "use_")))
    return next((each for each in known if each in ABSENT or each in OURS), plain)
