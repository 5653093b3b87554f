"""Every wrong scenario gets one clear answer: where it is wrong, what was found, and what to write instead."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim import ScenarioError
from afdsim.scenario.document import load, locate

GOOD = """\
version: 1
model: step3
precision: {attention: fp8, ffn: fp8, kv_cache: fp8}
deployment:
  type: afd
  attention:
    gpu: H800
    instances: 2
    gpus_per_instance: 8
    parallelism: {dp: 8, tp: 1}
  ffn:
    gpu: H800
    instances: 2
    gpus_per_instance: 8
    parallelism: {ep: 2, tp: 4}
  num_microbatches: 3
  max_num_seqs: 384
network:
  link:
    bandwidth: 400Gbps
    latency: 9us
variation:
  straggler: {"attention[1]": 1.2}
workload:
  arrival:
    process: poisson
    request_rate: 180 req/s
  input_len: {distribution: constant, value: 4096}
  output_len: 512
  num_requests: 100
sla: {tpot: 50ms, percentile: p99}
cost: {H800: 2.80 USD/h}
run:
  seeds: [0, 1]
"""

# old text -> new text, then the message; several lines of message are several faults
# fmt: off
ROWS = (
    ("cost: {H800", "kv_cache: {policy: grow}\ncost: {H800",
     "32:11: kv_cache.reprefill_rate: required key is missing with 'policy: grow', e.g. '20000 tok/s'; or write "
     "'preemption: swap'"),
    ("cost: {H800", "kv_cache: {preemption: swap}\ncost: {H800",
     "32:24: kv_cache.preemption: belongs to 'policy: grow': nobody is preempted where all is reserved; remove it"),
    ("cost: {H800", "kv_cache: {policy: grow, preemption: swap, reprefill_rate: 9 tok/s}\ncost: {H800",
     "32:60: kv_cache.reprefill_rate: belongs to 'preemption: recompute'; remove it (or set it to null)"),
    ("cost: {H800", "kv_cache: {policy: grow, reprefill_rate: 9 tok/s, host_bandwidth: 9 GB/s}\ncost: {H800",
     "32:67: kv_cache.host_bandwidth: belongs to 'preemption: swap'; remove it (or set it to null)"),
    ("  num_requests: 100", "  num_requests: 100\n  prefix: {groups: 4, tokens: 64}",
     "31:11: workload.prefix: is shared in the blocks of a KV cache; add 'kv_cache: {}'"),
    ("  num_requests: 100", "  num_requests: 100\n  prefix: {groups: 200000, tokens: 64}",
     "31:20: workload.prefix.groups: must be <= 100,000: every rank has a place for each (got 200000)"),
    ("cost: {H800", "kv_cache: {block: 0}\ncost: {H800",
     "32:19: kv_cache.block: must be a whole number >= 1 (got 0)"),
    ("cost: {H800", "kv_cache: {policy: grow, preemption: swap}\nfailures: {mtbf: {gpu: 1h}, requests: reject}\n"
     "cost: {H800",
     "32:20: kv_cache.policy: grow is not modelled together with failures; write 'policy: reserve'"),
    ("  output_len:", "  otput_len:",
     "29:3: workload.otput_len: unknown key 'otput_len'; did you mean 'output_len'?"),
    ("  input_len: {distribution: constant, value: 4096}", "  input_len: 9\n  isl: 4096",
     "29:3: workload.isl: unknown key 'isl'; afdsim calls it 'input_len'"),
    ("  num_requests: 100", "  num_requests: 100\n  num_prompts: 1",
     "31:3: workload.num_prompts: unknown key 'num_prompts'; afdsim calls it 'num_requests'"),
    ("  max_num_seqs: 384", "  max_num_seqs: 384\n  batch_size: 64",
     "18:3: deployment.batch_size: unknown key 'batch_size'; afdsim calls it 'max_num_seqs'"),
    ("{ep: 2, tp: 4}", "{ep: 2, tp_size: 4}",
     "15:26: deployment.ffn.parallelism.tp_size: unknown key 'tp_size'; afdsim calls it 'tp'"),
    ("    parallelism: {ep: 2, tp: 4}", "    kernels: [deepgemm, flash]",
     "15:14: deployment.ffn.kernels: no kernel was measured for 'flash' (known: cutlass, deepgemm, fa3, flashinfer, flashmla, swapab, triton, trtllm)"),
    ("{attention: fp8, ffn: fp8, kv_cache: fp8}", "{attention: bf16, kv_cache: fp8}",
     "3:24: precision.attention: bf16 does nothing beside 'kv_cache: fp8', which decides the kernel of core attention; set one of them (or the same twice)"),
    ("{attention: fp8, ffn: fp8, kv_cache: fp8}", "{attention: fp9}",
     "3:24: precision.attention: must be one of fp8, bf16, int8, fp4 (got 'fp9'); did you mean 'fp8'?"),
    ("  num_requests: 100", "  num_requests: 100\n  seed: 1",
     "31:3: workload.seed: unknown key 'seed'; afdsim calls it 'run.seeds'"),
    ("  num_requests: 100", "  num_requests: 100\n  request_rate: 1 req/s",
     "31:3: workload.request_rate: unknown key 'request_rate' here; it belongs to 'workload.arrival.request_rate'"),
    ("version: 1", "version: 1\nzebra: 1",
     "2:1: zebra: unknown key 'zebra' (known: version, name, model, precision, deployment, prefill, network, variation, workload, kv_cache, sla, failures, router, cost, run)"),
    ("9us", "20",
     "21:14: network.link.latency: needs a unit, for example '20us' or '20ms'"),
    ("400Gbps", "400",
     "20:16: network.link.bandwidth: needs a unit, for example '400Gbps' or '400GB/s'"),
    ("400Gbps", "400GBps",
     "20:16: network.link.bandwidth: unknown unit 'GBps'; 'Gbps' (gigabits) or 'GB/s' (gigabytes)?"),
    ("400Gbps", "50ms",
     "20:16: network.link.bandwidth: '50ms' is a time; a bandwidth is needed, e.g. '400Gbps'"),
    ("400Gbps", "0Gbps",
     "20:16: network.link.bandwidth: must be > 0 (got '0Gbps')"),
    ("9us", "-9us",
     "21:14: network.link.latency: must be >= 0 (got '-9us')"),
    ("9us", "[9us]",
     "21:14: network.link.latency: must be a time, e.g. '20us' (got a list)"),
    ("  num_microbatches: 3", "  ffn: {}\n  num_microbatches: 3",
     "16:3: deployment.ffn: duplicate key 'ffn' (first on line 11)"),
    ("  type: afd", "\ttype: afd",
     "5:1: YAML does not allow tabs for indentation (line 5)"),
    ("    instances: 2\n    gpus_per_instance: 8\n    parallelism: {dp", "    instances: 0\n    gpus_per_instance: 8\n    parallelism: {dp",
     "8:16: deployment.attention.instances: must be a whole number >= 1 (got 0)"),
    ("    instances: 2\n    gpus_per_instance: 8\n    parallelism: {dp", "    instances: -2\n    gpus_per_instance: 8\n    parallelism: {dp",
     "8:16: deployment.attention.instances: must be a whole number >= 1 (got -2)"),
    ("    instances: 2\n    gpus_per_instance: 8\n    parallelism: {dp", "    instances: 2.5\n    gpus_per_instance: 8\n    parallelism: {dp",
     "8:16: deployment.attention.instances: must be a whole number >= 1 (got 2.5)"),
    ("    instances: 2\n    gpus_per_instance: 8\n    parallelism: {dp", "    instances: true\n    gpus_per_instance: 8\n    parallelism: {dp",
     "8:16: deployment.attention.instances: must be a whole number >= 1 (got true)"),
    ("  max_num_seqs: 384", "  max_num_seqs:",
     "17:3: deployment.max_num_seqs: must be a whole number >= 1 (got nothing)"),
    ("  attention:\n    gpu: H800", "  attention:\n    gpu: H2O",
     "7:10: deployment.attention.gpu: unknown GPU 'H2O'; did you mean 'H20'? afdsim list gpus"),
    ("cost: {H800:", "cost: {H8OO:",
     "32:8: cost.H8OO: unknown GPU 'H8OO'; did you mean 'H800'? afdsim list gpus"),
    ("2.80 USD/h", "2.80",
     "32:14: cost.H800: needs a unit, for example '2.8 USD/h'"),
    ("{ep: 2, tp: 4}", "{ep: 3, tp: 8}",
     "15:18: deployment.ffn.parallelism: ep x tp = 3 x 8 = 24 but an instance has 8 GPUs"),
    ("{ep: 2, tp: 4}", "{ep: 3}",
     "15:18: deployment.ffn.parallelism: ep x tp = 3 x 8 = 24 but an instance has 8 GPUs"),
    ("{dp: 8, tp: 1}", "{dp: 8, tp: 2}",
     "10:18: deployment.attention.parallelism: dp x tp = 8 x 2 = 16 but an instance has 8 GPUs"),
    ("    instances: 2\n    gpus_per_instance: 8\n    parallelism: {ep", "    instances: 5\n    gpus_per_instance: 8\n    parallelism: {ep",
     "12:5: deployment.ffn: 48 experts do not divide over instances x ep = 5 x 2 = 10; nearest for deployment.ffn.instances: 4 or 6"),
    ("    process: poisson", "    process: gamma\n    burstiness: 0.5\n    cv: 2",
     "27:17: workload.arrival.burstiness: give one of burstiness and cv: burstiness (gamma shape) = 1/cv^2"),
    ("    process: poisson", "    process: gamma\n    burstiness: 0",
     "27:17: workload.arrival.burstiness: must be a number > 0 (got 0)"),
    ("  num_requests: 100", "  num_requests: 100\n  classes:\n  - {name: a b, weight: 0}",
     "32:12: workload.classes[0].name: must be at most 16 letters, digits, _ and -, e.g. 'chat' (got 'a b')\n32:25: workload.classes[0].weight: must be a number > 0 (got 0)"),
    ("  num_requests: 100", "  num_requests: 100\n  classes:\n  - {name: a}\n  - {name: a, isl: 5}",
     "33:15: workload.classes[1].isl: unknown key 'isl'; afdsim calls it 'workload.input_len'"),
    ("  num_requests: 100", "  num_requests: 100\n  classes:\n  - {name: a}\n  - {name: a}",
     "33:12: workload.classes[1].name: 'a' is the name of another class"),
    ("  num_requests: 100", "  num_requests: 100\n  classes: []",
     "31:12: workload.classes: needs a class, for example {name: chat, weight: 3}; or remove it"),
    ("  output_len: 512", "  classes: [{name: a, output_len: 9}, {name: b}]",
     "25:3: workload.output_len: required key is missing, or in each of the classes"),
    ("    process: poisson\n    request_rate: 180 req/s", "    process: mmpp\n    states: [{rate: 9 req/s, dwell: 1s}]",
     "27:13: workload.arrival.states: must be two or more, else write 'process: poisson' (got 1)"),
    ("    process: poisson\n    request_rate: 180 req/s", "    process: mmpp\n    states:\n    - {rate: inf, dwell: 1s}\n    - {rate: 1 req/s, dwell: 0s}",
     "29:30: workload.arrival.states[1].dwell: must be > 0 (got '0s')"),
    ("    process: poisson\n    request_rate: 180 req/s", "    process: mmpp\n    states:\n    - {rate: inf, dwell: 1s}\n    - {rate: 1 req/s, dwell: 1s}",
     "28:14: workload.arrival.states[0].rate: must be finite; all at once is 'process: poisson, request_rate: inf'"),
    ("    process: poisson\n    request_rate: 180 req/s", "    process: rate_curve\n    points:\n    - {at: 0s, rate: 1 req/s}\n    - {at: 5s, rate: 0 req/s}",
     "29:22: workload.arrival.points[1].rate: must be > 0: the last rate stays, unless a period is given"),
    ("    process: poisson\n    request_rate: 180 req/s", "    process: rate_curve\n    points:\n    - {at: 0s, rate: 1 req/s}\n    - {at: 5s, rate: 2 req/s}\n    - {at: 4s, rate: 3 req/s}",
     "30:12: workload.arrival.points[2].at: must be >= 5.00 s, that of the point before"),
    ("    process: poisson\n    request_rate: 180 req/s", "    process: rate_curve\n    period: 4s\n    points:\n    - {at: 0s, rate: 1 req/s}\n    - {at: 5s, rate: 2 req/s}",
     "27:13: workload.arrival.period: must be >= 5.00 s, the last point (got '4.00 s')"),
    ("    process: poisson\n    request_rate: 180 req/s", "    process: rate_curve\n    period: 5s\n    points: [{at: 0s, rate: 0 req/s}, {at: 5s, rate: 0 req/s}, {at: 5s, rate: 3 req/s}]",
     "26:5: workload.arrival: a rate > 0 req/s must last for some time of a period"),
    ("    process: poisson\n    request_rate: 180 req/s", "    process: mmpp\n    states: [{rate: 1 req/s, dwell: 1us}, {rate: 2 req/s, dwell: 1us}]",
     "26:5: workload.arrival: states must last for 0.01 requests or more (got 1.5e-06); what changes faster is a Poisson process of the mean rate"),
    ("    process: poisson\n    request_rate: 180 req/s", "    process: rate_curve\n    points: [{at: 1s, rate: 1 req/s}]",
     "27:13: workload.arrival.points: must begin at 0s, for example {at: 0s, rate: 2 req/s}"),
    ("    process: poisson", "    process: gamma",
     "26:5: workload.arrival: process gamma needs burstiness (the gamma shape) or cv (= 1/sqrt(burstiness))"),
    ("180 req/s", "-1 req/s",
     "27:19: workload.arrival.request_rate: must be > 0 (got '-1 req/s')"),
    ("180 req/s", "180",
     "27:19: workload.arrival.request_rate: needs a unit, for example '180 req/s'"),
    ("    request_rate: 180 req/s\n", "",
     "26:5: workload.arrival.request_rate: required key is missing"),
    ("process: poisson", "process: poison",
     "26:5: workload.arrival: unknown process 'poison'; did you mean 'poisson'? (known: closed_loop, poisson, constant, gamma, mmpp, rate_curve, trace)"),
    ("    process: poisson\n", "",
     "26:5: workload.arrival.process: required key is missing"),
    ("process: poisson", "process: closed_loop",
     "27:5: workload.arrival.request_rate: unknown key 'request_rate' (known: process, concurrency)"),
    ("    process: poisson\n    request_rate: 180 req/s", "    process: closed_loop\n    concurrency: 7000",
     "27:18: workload.arrival.concurrency: must be <= 6,144, all slots of the deployment"),
    ("  num_requests: 100", "  num_requests: 100\n  trace: {format: azure}",
     "31:10: workload.trace.path: needs the file to replay; write it here or give --set workload.trace.path=FILE"),
    ("{distribution: constant, value: 4096}", "{distribution: uniform, min: 9, max: 3}",
     "28:51: workload.input_len.max: must be >= min (9) (got 3)"),
    ("{distribution: constant, value: 4096}", "{distribution: normal, value: 4096}",
     "28:14: workload.input_len: unknown distribution 'normal'; did you mean 'lognormal'? (known: constant, lognormal, uniform)"),
    ("{distribution: constant, value: 4096}", "{distribution: constant, value: 0}",
     "28:46: workload.input_len.value: must be a whole number >= 1 (got 0)"),
    ('"attention[1]"', '"ffn[5]"',
     "23:25: variation.straggler.ffn[5]: ffn has instances 0..1"),
    ('"attention[1]"', '"decode[1]"',
     "23:15: variation.straggler.decode[1]: must be 'attention[i]' or 'ffn[i]'; colocated: 'instance[i]' (got 'decode[1]')"),
    ("1.2}", "0}",
     "23:31: variation.straggler.attention[1]: must be a number > 0 (got 0)"),
    ('{"attention[1]": 1.2}', '{}\n  spike: {probability: 0.1}',
     "24:10: variation.spike: needs 'seconds', e.g. '5ms', or 'factor', e.g. 10"),
    ('{"attention[1]": 1.2}', '{}\n  spike: {probability: 0.1, seconds: 5ms, factor: 3}',
     "24:51: variation.spike.factor: give one of factor and seconds"),
    ('{"attention[1]": 1.2}', '{}\n  spike: {probability: 0.1, factor: 3, where: link}',
     "24:37: variation.spike.factor: does not fit 'where: link': a late post is late by 'seconds', e.g. '5ms', whatever "
     "its rows"),
    ('{"attention[1]": 1.2}', '{}\n  spike: {probability: 2, factor: 0.5}',
     "24:24: variation.spike.probability: must be a number >= 0 and <= 1 (got 2)\n"
     "24:35: variation.spike.factor: must be a number >= 1 (got 0.5)"),
    ('{"attention[1]": 1.2}', '{}\n  spike: {probability: 0.1, seconds: 5}',
     "24:38: variation.spike.seconds: needs a unit, for example '5us' or '5ms'"),
    ("    latency: 9us", "    latency: 9us\n  uplinks: {latency: 1us}",
     "22:12: network.uplinks: must have one of bandwidth and oversubscription, e.g. {oversubscription: 2}; neither is given"),
    ("    latency: 9us", "    latency: 9us\n  uplinks: {bandwidth: 1.6Tbps, oversubscription: 2}",
     "22:12: network.uplinks: must have one of bandwidth and oversubscription, e.g. {oversubscription: 2}; both are given"),
    ("    latency: 9us", "    latency: 9us\n  uplinks: {oversubscription: 0.5}",
     "22:31: network.uplinks.oversubscription: must be a number >= 1 (got 0.5)"),
    ("    latency: 9us", "    latency: 9us\n  type: dedicated\n  uplinks: {oversubscription: 2}",
     "23:12: network.uplinks: needs the ports of NICs, but 'type: dedicated' gives every pair of instances a wire of its own"),
    ("    latency: 9us", "    latency: 9us\n  type: dedicated\n  degraded: {'ffn[1]': 0.5}",
     "23:13: network.degraded: needs the ports of NICs, but 'type: dedicated' gives every pair of instances a wire of its own"),
    ("    latency: 9us", "    latency: 9us\n  degraded: {'ffn[2]': 0.5}",
     "22:24: network.degraded.ffn[2]: ffn has instances 0..1"),
    ("    latency: 9us", "    latency: 9us\n  degraded: {'ffn[1].nic[8]': 0.5}",
     "22:31: network.degraded.ffn[1].nic[8]: an ffn instance has NICs 0..7"),
    ("    latency: 9us", "    latency: 9us\n  degraded: {'instance[0]': 0.5}",
     "22:14: network.degraded.instance[0]: must be 'attention[i]', 'ffn[i]', or one NIC of them, 'ffn[i].nic[j]' (got 'instance[0]')"),
    ("    latency: 9us", "    latency: 9us\n  degraded: {'ffn[1]': 1.5}",
     "22:24: network.degraded.ffn[1]: must be a number > 0 and <= 1 (got 1.5)"),
    ("    latency: 9us", "    latency: 9us\n  degraded: {'ffn[1]': 0}",
     "22:24: network.degraded.ffn[1]: must be a number > 0 and <= 1 (got 0)"),
    ("    latency: 9us", "    latency: 9us\n  nics_per_instance: 3",
     "22:22: network.nics_per_instance.attention: must divide the 8 GPUs of an attention instance (got 3)"),
    ("    latency: 9us", "    latency: 9us\n  nics_per_instance: {attention: 4, ffn: 3}",
     "22:42: network.nics_per_instance.ffn: must divide the 8 GPUs of an ffn instance (got 3)"),
    ("    latency: 9us", "    latency: 9us\n  nics_per_instance: 0",
     "22:22: network.nics_per_instance: must be a whole number >= 1, or a map such as {attention: 4, ffn: 8} (got 0)"),
    ("    latency: 9us", "    latency: 9us\n  nics_per_instance: {ffn: four}",
     "22:28: network.nics_per_instance.ffn: must be a whole number >= 1 (got 'four')"),
    ("    bandwidth: 400Gbps\n    latency: 9us", "    latency: 9us\n  nics_per_instance: 4",
     "21:22: network.nics_per_instance: needs link.bandwidth, the line rate of one NIC, e.g. 400Gbps: the catalog knows what a GPU has of its server's NICs"),
    ("    latency: 9us", "    latency: 9us\n    ports: 3",
     "22:12: network.link.ports: must be 1 or 2 (got 3)"),
    ("    latency: 9us", "    latency: 9us\n    split: false",
     "22:12: network.link.split: is about messages over two bonded ports; add 'ports: 2' or remove it"),
    ("sla: {tpot: 50ms, percentile: p99}", "sla: {tpot: 50ms, percentile: p98}",
     "31:31: sla.percentile: must be one of mean, p50, p90, p95, p99 (got 'p98'); did you mean 'p99'?"),
    ("sla: {tpot: 50ms, percentile: p99}", "sla: {}",
     "31:6: sla: needs a limit, for example 'tpot: 50ms'"),
    ("type: afd", "type: colocatd",
     "5:3: deployment: unknown type 'colocatd'; did you mean 'colocated'? (known: afd, colocated, tensor_parallel)"),
    ("network:", "network:\n  type: fifo",
     "19:9: network.type: 'fifo' is not modelled yet; this version simulates ports, shared, dedicated"),
    ("network:", "network:\n  type: prots",
     "19:9: network.type: must be one of ports, shared, dedicated (got 'prots'); did you mean 'ports'?"),
    ("network:", "network:\n  efficiency: 1.2",
     "19:15: network.efficiency: must be a number > 0 and <= 1 (got 1.2)"),
    ("run:", "failures: [{target: 'ffn[1]', kind: crash, at: 30s}]\nrun:",
     "33:11: failures: must be a map (got a list)"),
    ("run:", "failures: {restart: 30s, requests: reject}\nrun:",
     "33:11: failures: needs 'events' or 'mtbf': nothing fails without one"),
    ("run:", "failures: {events: [{at: 30s, target: 'ffn[1]'}]}\nrun:",
     "33:11: failures.reprefill_rate: required key is missing with 'requests: reprefill', e.g. '20000 tok/s'; or write "
     "'requests: reject'"),
    ("run:", "failures: {events: [{at: 30s, target: 'ffn[2]'}], requests: reject}\nrun:",
     "33:39: failures.events[0].target: ffn has instances 0..1"),
    ("run:", "failures: {events: [{at: 30s, target: 'instance[0]'}], requests: reject}\nrun:",
     "33:39: failures.events[0].target: afd deployments have 'attention[i]' and 'ffn[i]'"),
    ("run:", "failures: {events: [{at: 30s, target: 'ffn[0].nic[8]'}], requests: reject}\nrun:",
     "33:39: failures.events[0].target: ffn instance 0 has NICs 0..7"),
    ("    latency: 9us", "    latency: 9us\n  nics_per_instance: {ffn: 4}\n"
     "failures: {events: [{at: 30s, target: 'ffn[0].nic[4]'}], requests: reject}",
     "23:39: failures.events[0].target: ffn instance 0 has NICs 0..3"),
    ("run:", "router: {replicas: 0}\nrun:", "33:20: router.replicas: must be a whole number >= 1 (got 0)"),
    ("run:", "router: {replicas: 2, policy: sticky}\nrun:",
     "33:31: router.policy: must be one of round_robin, least_requests, least_kv, power_of_two, prefix_affinity (got 'sticky')"),
    ("run:", "failures: {events: [{at: 30s, target: 'ffn[0].fan[1]'}], requests: reject}\nrun:",
     "33:39: failures.events[0].target: must be 'attention[i]' or 'ffn[i]'; colocated: 'instance[i]'; a part of one: "
     "'ffn[0].gpu[3]', 'ffn[0].nic[2]' (got 'ffn[0].fan[1]')"),
    ("run:", "failures: {events: [{at: -1s, target: 'ffn[0]'}], requests: reject}\nrun:",
     "33:26: failures.events[0].at: must be >= 0 (got '-1s')"),
    ("run:", "failures: {events: [{at: 1s, target: 'ffn[0]', mttr: 1s}], requests: reject}\nrun:",
     "33:48: failures.events[0].mttr: unknown key 'mttr'; afdsim calls it 'failures.repair'"),
    ("run:", "failures: {mtbf: {}, requests: reject}\nrun:",
     "33:18: failures.mtbf: needs a kind of part, for example 'instance: 30d'"),
    ("run:", "failures: {mtbf: {gpu: 100d}, requests: reject, reprefill_rate: 5000 tok/s}\nrun:",
     "33:65: failures.reprefill_rate: belongs to 'requests: reprefill'; remove it (or set it to null)"),
    ("  max_num_seqs: 384", "  max_num_seqs: 384\n  gpu_memory_utilization: 90",
     "18:27: deployment.gpu_memory_utilization: must be a number > 0 and <= 1 (got 90)"),
    ("  max_num_seqs: 384", "  max_num_seqs: 384\n  mem_fraction_static: 0.88",
     "18:3: deployment.mem_fraction_static: unknown key 'mem_fraction_static'; a share of HBM for weights and "
     "KV cache alone is not modelled: without activations, it is a little lower than "
     "'deployment.gpu_memory_utilization', which includes them"),
    ("  max_num_seqs: 384", "  max_num_seqs: 384\n  gap: 1ms",
     "18:8: deployment.gap: is a pause of drained pipelines; add 'boundary: drain' or remove it"),
    ("  max_num_seqs: 384", "  max_num_seqs: 384\n  mtp: {draft: 1, acceptance: 1.8}",
     "18:31: deployment.mtp.acceptance: must be a number >= 0 and <= 1 (got 1.8)"),
    ("    gpus_per_instance: 8\n    parallelism: {dp", "    gpus_per_instance: 8\n    o_proj: tp3\n    parallelism: {dp",
     "10:13: deployment.attention.o_proj: tp3 does not divide the 8 GPUs of an instance"),
    ("version: 1", "version: 2",
     "1:10: version: must be 1, the only version of the format (got 2)"),
    ("model: step3\n", "",
     "1:1: model: required key is missing"),
    ("[0, 1]", "5",
     "34:10: run.seeds: must be a list (got 5)"),
    ("[0, 1]", "[]",
     "34:10: run.seeds: must name at least one seed, e.g. [0]"),
    ("[0, 1]", "[0, 0]",
     "34:10: run.seeds: names a seed twice"),
    ("[0, 1]", "[0, yes]",
     "34:14: run.seeds[1]: must be a whole number >= 0 (got 'yes')"),
    ("run:", "run:\n  record: {tokens: yes}",
     "34:20: run.record.tokens: must be true or false (got 'yes')"),
    ("  link:\n    bandwidth: 400Gbps\n    latency: 9us", "  link: fast",
     "19:9: network.link: must be a map (got 'fast')"),
    ("version: 1", "version: 1\nextends: [a]",
     "2:10: extends: must be a file or the name of a shipped scenario (got a list)"),
    ("version: 1", "version: 1\n5: 1",
     "2:1: 5: key '5' must be text, not a number\n2:1: 5: unknown key '5' (known: version, name, model, precision, deployment, prefill, network, variation, workload, kv_cache, sla, failures, router, cost, run)"),
    ("version: 1", "version: !!int 1",
     "1:10: version: YAML tags (!...) are not used in scenarios"),
    ("version: 1", "version: *one",
     "1:10: version: alias '*one' has no finished anchor before it"),
    ("version: 1", "version: [1",
     "2:6: not valid YAML: expected ',' or ']', but got ':'"),
    ("sla: {tpot: 50ms,", "sla: {ttft: 1s,",
     "31:13: sla.ttft: needs prefill, which gives the first token, e.g. 'prefill: {gpu: H800, instances: 2}', or if nothing "
     "is apart 'prefill: {mode: mixed}'"),
    ("run:", "prefill: {gpu: H800, instances: 2, parallelism: {dp: 2, tp: 2}}\nrun:",
     "33:49: prefill.parallelism: dp x tp = 2 x 2 = 4 but an instance has 8 GPUs"),
    ("run:", "prefill: {gpu: H800, instances: 2, parallelism: {dp: 2, ep: 4}}\nrun:",
     "33:61: prefill.parallelism.ep: must be 8, all GPUs of an instance with several ranks (got 4)"),
    ("run:", "prefill: {gpu: H800, instances: 2, parallelism: {dp: 1, ep: 5}}\nrun:",
     "33:61: prefill.parallelism.ep: must divide the 8 GPUs of an instance (got 5)"),
    ("run:", "prefill: {gpu: H800, instances: 2, gpus_per_instance: 16}\nrun:",
     "33:10: prefill.parallelism.tp: must be <= 8, the NVLink domain of H800 (got 16)"),
    ("run:", "prefill: {gpu: H800, instances: 2, gpus_per_instance: 7}\nrun:",
     "33:10: prefill.parallelism.tp: 64 query heads, a dense FFN of width 18,432 and experts of width 5,120 do not divide "
     "over 7 GPUs; nearest that do: 4 and 8"),
    ("run:", "prefill: {gpu: H800, instances: 2, chunk: 9000}\nrun:",
     "33:43: prefill.chunk: must be <= 8,192, the tokens of a step (max_batched_tokens) (got 9000)"),
    ("run:", "prefill: {gpu: H800, instances: 2, two_batch_overlap: true}\nrun:",
     "33:55: prefill.two_batch_overlap: hides the flights between experts, and one rank has none; give 'dp' above 1"),
    ("run:", "prefill: {mode: mixed}\nrun:",
     "33:17: prefill.mode: mixed is not modelled of AFD, whose prompts come from servers; give these, e.g. 'prefill: "
     "{gpu: H800, instances: 2}', or a deployment of type colocated or tensor_parallel"),
    ("run:", "prefill: {mode: mixd, chunk: 512}\nrun:",
     "33:17: prefill.mode: must be one of servers, mixed (got 'mixd'); did you mean 'mixed'?"),
    ("run:", "prefill: {mode: mixed, chunk: 512, gpu: H800}\nrun:",
     "33:36: prefill.gpu: unknown key 'gpu' (known: mode, chunk)"),
    ("run:", "prefill: mixed\nrun:",
     "33:10: prefill: must be a map (got 'mixed')"),
    ("run:", "prefill: {gpu: H800, instances: 2, overlap: layer}\nrun:",
     "33:45: prefill.overlap: must be one of none, layers (got 'layer'); did you mean 'layers'?"),
    ("  output_len: 512\n  num_requests: 100\n",
     "  output_len: {distribution: uniform, max: 1}\n  num_requests: 100\nprefill: {gpu: H800, instances: 2}\n",
     "29:15: workload.output_len: is 1 token, which prefill gives: decode has nothing to do; give more than 1"),
)
# fmt: on


def faults(path):
    with pytest.raises(ScenarioError) as caught:
        load(path)
    return str(caught.value)


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "a.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_the_scenario_of_this_table_is_good(file):
    assert load(file(GOOD)).deployment.slots == 6144


@pytest.mark.parametrize(("old", "new", "message"), ROWS)
def test_a_fault_is_answered_where_it_is(file, old, new, message):
    assert GOOD.count(old) >= 1
    path = file(GOOD.replace(old, new, 1))

    assert faults(path) == "\n".join(f"{path}:{line}" for line in message.split("\n"))


def test_an_unknown_model_is_suggested(file):
    path = file(GOOD.replace("model: step3", "model: step33"))

    assert faults(path).startswith(f"{path}:2:8: model: unknown ")
    assert "did you mean 'step3'" in faults(path)


def test_a_model_path_starts_at_the_file(file):
    path = file(GOOD.replace("model: step3", "model: ./config.json"))

    assert faults(path).startswith(f"{path}:2:8: model: ")
    assert str(path.parent / "config.json") in faults(path)


def test_a_base_that_is_not_there_is_reported_at_extends(file):
    path = file("extends: nowhere.yaml\n")

    assert faults(path).startswith(
        f"{path}:1:10: extends: nowhere.yaml: no such file, and no shipped scenario (shipped: "
    )


def test_a_trace_that_is_not_there_is_reported(file, tmp_path):
    path = file("extends: azure_conversation\nworkload: {trace: {path: no.csv, end: 1s, start: 2s, format: azur}}\n")

    assert faults(path).split("\n")[
        0
    ] == f"{path}:2:25: workload.trace.path: no such file '{tmp_path / 'no.csv'}'".replace(":25:", ":26:")
    assert f"{path}:2:39: workload.trace.end: must be > start (2.00 s)" in faults(path)
    assert "workload.trace.format: must be one of auto, " in faults(path)


def test_all_faults_are_reported_at_once_in_the_order_of_the_file(file):
    text = GOOD
    for old, new in [
        ("H800", "H2O"),
        ("400Gbps", "400GBps"),
        ("  num_requests", "  num_request"),
        ("[0, 1]", "[-1]"),
        ("9us", "9"),
    ]:
        text = text.replace(old, new, 1)
    path = file(text)

    assert [line.removeprefix(f"{path}:").split(": ")[:2] for line in faults(path).split("\n")] == [
        ["7:10", "deployment.attention.gpu"],
        ["20:16", "network.link.bandwidth"],
        ["21:14", "network.link.latency"],
        ["30:3", "workload.num_request"],
        ["34:11", "run.seeds[0]"],
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ":1:1: the file is empty; 'afdsim init' writes a scenario to start from"),
        ("# only a comment\n", ":1:1: the file is empty; 'afdsim init' writes a scenario to start from"),
        ("- a\n- b\n", ":1:1: a scenario is a map of keys, such as 'model: step3'"),
        ("step3\n", ":1:1: a scenario is a map of keys, such as 'model: step3'"),
        (b"\xff\xfe\x00\x01", ":1:1: not a text file in UTF-8 (byte 0)"),
        ("a: \x00", ":1:1: not valid YAML: unacceptable character #x0000: special characters are not allowed"),
        ("--- 1\n--- 2\n", ":1:1: holds more than one YAML document ('---'); one scenario per file"),
        ("a: {? [b] : c}", ":1:7: a: a key must be plain text"),
        ("a: b: c\n", ":1:5: not valid YAML: mapping values are not allowed here"),
    ],
)
def test_what_is_no_scenario_at_all_is_said_in_one_line(file, content, message):
    path = file(content)

    assert faults(path) == f"{path}{message}"


def test_nesting_and_aliases_are_bounded(file):
    assert "nested more than 32 levels deep" in faults(file("a: " + "[" * 5000))
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
    )

    assert "more than 20,000 values; a scenario is a short text" in faults(file(laughs))


@pytest.mark.parametrize(
    ("base", "more", "message"),
    [
        (
            "small",
            (),
            "router: needs requests that arrive: in a closed_loop every cell has its own, so run one cell without 'router'",
        ),
        (
            "step3_poisson",
            ("failures={mtbf: {gpu: 1d}, requests: reject}",),
            "router: and 'failures' do not go together yet: no router hears of a crash; run one cell without it",
        ),
    ],
)
def test_what_does_not_go_with_a_router_is_refused(base, more, message):
    with pytest.raises(ScenarioError) as caught:
        load(base, overrides=["router={replicas: 4}", *more])

    assert str(caught.value) == f"--set router={{replicas: 4}}: {message}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "deployment.max_num_seqs",
            "--set deployment.max_num_seqs: write path=value, for example 'deployment.max_num_seqs=256'",
        ),
        (
            "deployment.max_num_seqs=0",
            "--set deployment.max_num_seqs=0: deployment.max_num_seqs: must be a whole number >= 1 (got 0)",
        ),
        (
            "deployment.atn.instances=1",
            "--set deployment.atn.instances=1: deployment.atn.instances: no such key 'atn' under 'deployment' (has: type, attention, ffn, num_microbatches, max_num_seqs, gpu_memory_utilization, boundary, gap, host_overhead, gate, shared_expert, dispatch, mtp)",
        ),
        (
            "netwrk.post=1us",
            "--set netwrk.post=1us: netwrk.post: no such key 'netwrk' (has: version, name, model, precision, deployment, prefill, network, variation, workload, kv_cache, sla, failures, router, cost, run); did you mean 'network'?",
        ),
        ("model.name=1", "--set model.name=1: model.name: 'model' has no keys"),
        ("run.seeds=[1", "--set run.seeds=[1:1:3: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("network.post=3", "--set network.post=3: network.post: needs a unit, for example '3us' or '3ms'"),
        ("workload.trace.path=x.csv", None),
    ],
)
def test_an_override_is_cited_as_it_was_typed(override, message):
    with pytest.raises(ScenarioError) as caught:
        load("small", overrides=[override])

    assert message is None or str(caught.value) == message
    assert str(caught.value).startswith(f"--set {override}")


def test_a_trace_scenario_says_that_it_needs_its_trace():
    path = locate("azure_conversation")

    assert re.fullmatch(
        rf"{re.escape(str(path))}:\d+:\d+: workload\.trace\.path: needs the file to replay; "
        r"write it here or give --set workload\.trace\.path=FILE",
        faults("azure_conversation"),
    )


def test_what_is_allowed_and_surprising_is_noted(file):
    path = file(GOOD.replace("num_microbatches: 3", "num_microbatches: 1").replace("180 req/s", ".inf"))

    assert load(path).notes == (
        f"{path}:16:21: deployment.num_microbatches: no overlap: with one micro-batch the pools take turns",
        f"{path}:27:19: workload.arrival.request_rate: infinite: all requests arrive at time 0",
    )
    assert load("small").notes == ()


def test_a_dict_is_answered_without_positions():
    with pytest.raises(ScenarioError) as caught:
        load({"extends": "small", "deployment": {"max_num_seqs": "many"}, "run": {"seeds": 3}})

    assert str(caught.value).split("\n") == [
        "deployment.max_num_seqs: must be a whole number >= 1 (got 'many')",
        "run.seeds: must be a list (got 3)",
    ]


PIECES = st.sampled_from(
    ["\t", "\n", "  ", ":", "- ", "[", "]", "{", "}", "&a ", "*a", "!!x ", "'", '"', "#", "? ", "| ", "> ", "%YAML 1.1\n", "---\n", "...\n",
     "null", "true", "1e9", ".inf", "-.nan", "0x1F", "<<: ", "\x00", "\ud800", "\ufeff", "\u2028", "é", "9" * 70, "extends: small\n", "@", "`"]
)  # fmt: skip


@given(data=st.data(), name=st.sampled_from(["small", "step3_2a2f_4k", "step3_poisson"]))
def test_a_mutated_scenario_is_a_scenario_or_an_error_with_a_position(data, name, tmp_path_factory):
    text = locate(name).read_text(encoding="utf-8")
    for _ in range(data.draw(st.integers(1, 4))):
        cut = data.draw(st.integers(0, len(text)))
        removed = data.draw(st.integers(0, 12))
        text = text[:cut] + data.draw(PIECES | st.text(max_size=4)) + text[cut + removed :]
    path = tmp_path_factory.mktemp("mutated") / "m.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))

    message = ""
    try:
        load(path)
    except ScenarioError as error:
        message = str(error)

    for line in message.split("\n") if message else []:
        assert re.match(r".+\.yaml:\d+:\d+: .", line), line


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(
        [
            "deployment",
            "workload.arrival",
            "workload.input_len",
            "network.link",
            "network.uplinks",
            "network.degraded",
            "network.nics_per_instance",
            "variation.straggler",
            "cost",
            "run.seeds",
            "model",
            "failures",
            "sla",
            "workload.trace",
        ]
    ),
)
def test_any_value_anywhere_is_a_scenario_or_a_scenario_error(value, path):
    base = load("small")
    try:
        base = base.vary(path, value)
    except ScenarioError as error:
        assert str(error)  # noqa: PT017 - either outcome is fine

    assert base.key
