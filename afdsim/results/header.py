"""What was simulated, as lines of at most 96 columns: model, deployment, network, memory, stragglers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from afdsim.units import show_count, show_many, show_time

if TYPE_CHECKING:
    from afdsim.cluster.colocated import Colocated
    from afdsim.cluster.deployment import Afd
    from afdsim.scenario import tree
    from afdsim.scenario.document import Scenario
    from afdsim.scenario.formats import Format

WIDTH = 96


def deployment_line(scenario: Scenario) -> str:
    """Return ``AFD decode 2A2F (32 GPUs) = 2x8 H800 attention + 2x8 H800 FFN, 3 micro-batches``."""
    from afdsim.scenario import tree

    each = scenario.deployment
    if not isinstance(each, tree.Afd):
        return _engine_line(each)
    attention, ffn = each.attention, each.ffn
    label = f"{attention.instances}A{ffn.instances}F"
    gpus = attention.instances * attention.gpus_per_instance + ffn.instances * ffn.gpus_per_instance
    batches = f"{each.num_microbatches} micro-batch{'es' if each.num_microbatches > 1 else ''}"
    batches += f" in each of {attention.groups} attention groups" if attention.groups > 1 else ""
    batches += "".join(_variants(each))
    return (
        f"AFD decode {label} ({show_many(gpus, 'GPU')}) = "
        f"{attention.instances}x{attention.gpus_per_instance} {attention.gpu} attention + "
        f"{ffn.instances}x{ffn.gpus_per_instance} {ffn.gpu} FFN ({_inside(ffn)}), {batches}"
    )


def short(scenario: Scenario) -> str:
    """Return what a deployment is called, ``2A2F``, ``EP128`` or ``TP8``, with how many of it and its prefill."""
    from afdsim.scenario import tree

    match scenario.deployment:
        case tree.Afd(attention=attention, ffn=ffn):
            name = f"{attention.instances}A{ffn.instances}F"
        case tree.TensorParallel(gpus=gpus):
            name = f"TP{gpus}"
        case each:
            name = f"EP{each.instances * each.gpus_per_instance}"
    count = 1 if scenario.router is None else scenario.router.count
    name = "unlike cells" if scenario.unlike else name if count == 1 else f"{count} x {name}"
    return (
        name if scenario.servers is None else f"{name} with {show_many(scenario.servers.instances, 'prefill instance')}"
    )


def _inside(ffn: tree.FfnPool) -> str:
    """Return how the GPUs of an FFN instance share the experts: TP8, EP8 or EP2xTP4."""
    ep, tp = ffn.parallelism.ep, ffn.parallelism.tp
    return f"TP{tp}" if ep == 1 else f"EP{ep}" if tp == 1 else f"EP{ep}xTP{tp}"


def _variants(each: tree.Afd) -> Iterator[str]:
    """Yield what an AFD deployment has otherwise than Step-3."""
    if each.dispatch == "sparse":
        yield ", sparse dispatch"
    if each.gate == "ffn":
        yield ", gate on FFN"
    if each.shared_expert == "attention":
        yield ", shared expert on attention"


def _engine_line(each: tree.Colocated | tree.TensorParallel) -> str:
    """Return ``Colocated decode DP128+EP128 = 16x8 H800 (128 GPUs), two-batch overlap``."""
    if each.type == "tensor_parallel":
        return f"Colocated decode TP{each.gpus} = {each.gpus} {each.gpu}, no overlap"
    gpus = each.instances * each.gpus_per_instance
    overlap = "two-batch" if each.two_batch_overlap else "single-batch" if each.single_batch_overlap else "no"
    return (
        f"Colocated decode DP{each.instances * each.parallelism.dp}+EP{gpus} = "
        f"{each.instances}x{each.gpus_per_instance} {each.gpu} ({show_many(gpus, 'GPU')}), {overlap} overlap"
    )


def deployment_lines(scenario: Scenario) -> list[str]:
    """Return the line of the deployment; of unlike cells behind a router one of every kind, with their numbers."""
    if not scenario.unlike:
        return [deployment_line(scenario)]
    lines, first = [], 0
    for part in scenario.parts:
        last = first + (part.router.count if part.router else 1) - 1
        cells = f"cell[{first}]" if first == last else f"cell[{first}] to cell[{last}]"
        lines += hanging(f"{cells} ", deployment_line(part))
        first = last + 1
    return lines


def prefill_lines(scenario: Scenario) -> list[str]:
    """Return ``Prefill 2x8 H200 (16 GPUs), TP8, 8,192 tokens a step``, wrapped; nothing where prompts come computed."""
    if scenario.mixed is not None:
        text = f"mixed, {show_count(scenario.mixed.chunk)} tokens a step and rank beside those that decode"
        return hanging("Prefill ", text)
    each = scenario.servers
    if each is None:
        return []
    ways, gpus = each.parallelism, each.instances * each.gpus_per_instance
    inside = f"DP{ways.dp}+EP{ways.ep}" if ways.dp > 1 else f"TP{ways.tp}" + (f", EP{ways.ep}" if ways.ep > 1 else "")
    text = f"{each.instances}x{each.gpus_per_instance} {each.gpu} ({show_many(gpus, 'GPU')}), {inside}, "
    text += f"{show_count(each.max_batched_tokens)} tokens a step"
    text += f" and rank, {show_count(each.chunk)} of a prompt" if each.chunk else " and rank" if ways.dp > 1 else ""
    text += ", two-batch overlap" if each.two_batch_overlap else ""
    travels = "layer by layer" if each.overlap == "layers" else "when a prompt is done"
    return hanging("Prefill ", f"{text}; KV cache leaves {travels}")


def straggler_lines(scenario: Scenario) -> list[str]:
    """Return ``Straggler attention[1] x1.3``, wrapped; nothing where every instance is alike."""
    slow = ", ".join(f"{target} x{factor:g}" for target, factor in scenario.variation.straggler.items() if factor != 1)
    return hanging("Straggler ", slow) if slow else []


def model_line(scenario: Scenario, formats: Iterable[Format]) -> str:
    """Return the model, its number formats and where each comes from, in one line."""
    from afdsim.scenario.formats import sentence

    return f"Model {model_name(scenario.model)}, {sentence(formats)}"


def model_lines(scenario: Scenario, formats: Iterable[Format]) -> list[str]:
    """Return the same as a line of the model and one of its formats, wrapped."""
    from afdsim.scenario.formats import sentence

    return [f"Model {model_name(scenario.model)}", *hanging("Precision ", sentence(formats).removeprefix("precision "))]


def model_name(model: str) -> str:
    """Return a model as it is printed: a file from the working directory on, or with its folder alone."""
    from afdsim.scenario.document import near
    from afdsim.scenario.leaves import is_path

    if not is_path(model):
        return model
    path = near(Path(model))
    if not path.is_absolute():
        return str(path)
    return str(Path(path.parent.name, path.name))


def memory_lines(afd: Afd | Colocated, context: int | None) -> list[str]:
    """Return what fills the memory of a GPU of each role; `context` is the final length of all requests."""
    together = not hasattr(afd, "ffn")
    weights = afd.attention_weights + (afd.ffn_weights if together else 0.0)
    role = "Colocated GPU " if together else "Attention GPU "
    line = f"{role} {weights / 1e9:.1f} GB of weights, {afd.kv_budget / 1e9:.1f} GB for KV cache"
    if context is not None:
        fits = f"{show_many(afd.kv_cache.sequences(context), 'sequence')} of {show_count(context)} tokens"
        line += f":\n               {fits} (max_num_seqs {show_count(afd.max_num_seqs)})"
    return [line] if together else [line, f"FFN GPU        {afd.ffn_weights / 1e9:.1f} GB of weights"]


def router_line(scenario: Scenario) -> list[str]:
    """Return how many cells there are, and who sends requests to them."""
    router = scenario.router
    if router is None:
        return []
    what = f"of {show_many(len(scenario.parts), 'kind')}" if scenario.unlike else "each the deployment above"
    return hanging("Router ", f"{router.policy} over {show_many(router.count, 'cell')}, {what}")


def network_line(scenario: Scenario) -> list[str]:
    """Return the rate of the NICs that the run uses, and who says so; nothing inside one NVLink domain."""
    from afdsim.scenario import tree

    each, network = scenario.deployment, scenario.network
    if isinstance(each, tree.TensorParallel):
        return []
    link = network.link
    gpus = dict.fromkeys((each.attention.gpu, each.ffn.gpu) if isinstance(each, tree.Afd) else (each.gpu,))
    rates = " and ".join(_nic(gpu) for gpu in gpus) if link.bandwidth is None else f"{_gbps(link.bandwidth)} (scenario)"
    if not isinstance(each, tree.Afd):
        return hanging("Network ", f"all-to-all kernels, NIC {rates}")
    reached = f"x {network.efficiency:g} achieved, path {show_time(link.latency)}"
    return hanging("Network ", ", ".join((f"{network.type}, NIC {rates} {reached}", *_cabled(network))))


def _cabled(network: tree.Network) -> Iterator[str]:
    """Yield what differs from one whole NIC a GPU under one switch a rail."""
    nics, link, uplinks = network.nics_per_instance, network.link, network.uplinks
    if nics:
        counts = ((nics.attention, "attention"), (nics.ffn, "FFN"))
        yield " and ".join(f"{count} NICs per {side} instance" for count, side in counts if count)
    if link.ports > 1:
        yield f"{link.ports} bonded ports, " + ("messages split" if link.split else "a queue pair on one of them")
    if uplinks:
        rate = f"of {_gbps(uplinks.bandwidth)} per rail" if uplinks.bandwidth else f"{uplinks.oversubscription:g}:1"
        yield f"uplinks {rate}" + (f" and {show_time(uplinks.latency)} more" if uplinks.latency else "")
    if network.degraded:
        yield "degraded " + " and ".join(f"{name} to {share:.0%}" for name, share in network.degraded.items())


def _nic(name: str) -> str:
    from afdsim.catalog import entries as catalog

    return f"{_gbps(catalog.gpu(name).nic.bandwidth)} (catalog, {name})"


def _gbps(bytes_per_second: float) -> str:
    return f"{bytes_per_second * 8e-9:g} Gb/s"


def hanging(label: str, text: str) -> list[str]:
    """Wrap a text behind a label."""
    import textwrap

    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )
