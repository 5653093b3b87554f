"""What is read: good inputs of every kind, how one is changed, and the command that reads it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from afdsim.cli.main import main
from afdsim.scenario import yamlfile
from tests.fuzz import mutations
from tests.scratch import scratch

QUIET = ("--quiet", "--no-marginal", "--json")
SHAPES = Path(__file__).parents[1] / "catalog" / "shapes"

CLOSED = {"arrival": {"process": "closed_loop"}, "input_len": 64, "output_len": 8, "num_requests": 30}
OPEN = {**CLOSED, "arrival": {"process": "poisson", "request_rate": "200 req/s"}}
AFD = {
    "type": "afd",
    "attention": {"gpu": "H800", "instances": 1, "parallelism": {"dp": 8, "tp": 1}},
    "ffn": {"gpu": "H800", "instances": 1},
    "num_microbatches": 2,
    "max_num_seqs": 4,
}
EP = {"type": "colocated", "gpu": "H800", "instances": 1, "gpus_per_instance": 8, "max_num_seqs": 4}
CRASH = {"events": [{"at": "10ms", "target": "ffn[0]", "repair": "1s"}], "requests": "reject"}
SCENARIOS: tuple[dict[str, Any], ...] = (
    {"deployment": AFD, "workload": CLOSED, "variation": {"event": 0.05, "straggler": {"ffn[0]": 1.2}}},
    {"deployment": AFD, "workload": OPEN, "network": {"type": "ports", "link": {"latency": "9us"}}},
    {"deployment": EP, "workload": CLOSED, "sla": {"tpot": "50ms", "percentile": "mean"}, "cost": {"H800": "2 USD/h"}},
    {"deployment": {**EP, "two_batch_overlap": True, "mtp": {"draft": 1, "acceptance": 0.6}}, "workload": CLOSED},
    {"deployment": {"type": "tensor_parallel", "gpu": "H800", "gpus": 8, "max_num_seqs": 8}, "workload": OPEN},
    {"deployment": EP, "workload": OPEN, "prefill": {"mode": "mixed", "chunk": 64}},
    {
        "deployment": AFD,
        "workload": OPEN,
        "prefill": {"gpu": "H800", "instances": 1, "parallelism": {"dp": 8, "tp": 1, "ep": 8}},
        "sla": {"ttft": "1s", "tpot": "50ms"},
    },
    {"deployment": EP, "workload": OPEN, "router": {"policy": "least_requests", "replicas": 2}},
    {"deployment": EP, "workload": OPEN, "kv_cache": {"policy": "grow", "reprefill_rate": "20000 tok/s"}},
    {"deployment": AFD, "workload": OPEN, "failures": CRASH},
    {
        "deployment": EP,
        "workload": {**CLOSED, "sessions": {"turns": 2, "user_len": 5, "think_time": "10ms", "kv": "offload"}},
    },
    {
        "deployment": EP,
        "workload": {
            "arrival": {"process": "mmpp", "states": [{"rate": "9 req/s", "dwell": "1s"}, {"rate": "0 req/s", "dwell": "1s"}]},
            "classes": [{"name": "a", "weight": 2, "input_len": 9, "output_len": 9}, {"name": "b", "input_len": 5, "output_len": 2}],
            "num_requests": 20,
        },
    },
)  # fmt: skip
TRACES = {
    "azure.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:46.78,396,9\n",
    "vidur.csv": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,10,5\n0.5,20,6\n0.7,3,9\n",
    "own.csv": "arrival_s,input_len,output_len\n0.0,10,5\n0.5,20,6\n0.7,3,9\n",
    "mooncake.jsonl": '{"timestamp": 0, "input_length": 67, "output_length": 5, "hash_ids": [0, 1]}\n'
    '{"timestamp": 30, "input_length": 73, "output_length": 3, "hash_ids": [0, 2]}\n',
}
SWEEP = {
    "version": 1,
    "name": "s",
    "base": {"extends": "base.yaml"},
    "axes": {"deployment.max_num_seqs": [2, 4]},
    "seeds": 1,
}
COEFFICIENTS = (
    "gpu,kernel,dtype,backend,gpus,peak,fixed,compute,memory,bandwidth,tile,quantise,status,source,samples,median_error,p90_error,held_out_median,held_out_p90\n"
    "H800,gemm,bf16,*,,,4e-6,0.76,0.84,,1,0,measured,here,,,,,\nH800,core_gqa,bf16,*,,bf16,1e-5,0.6,0.8,,64,0,measured,here,,,,,\n"
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of input: `write` puts a changed one into a folder and returns the words that read it."""

    name: str
    write: Callable[[random.Random, Path], tuple[str, ...]]
    codes: tuple[int, ...] = (0, 2)
    """Exit codes that it may have."""


def _yaml(folder: Path, name: str, data: Any) -> Path:
    path = folder / name
    path.write_text(yamlfile.dump(data) if isinstance(data, dict) else json.dumps(data), encoding="utf-8")
    return path


def _scenario(rng: random.Random, folder: Path) -> tuple[str, ...]:
    given = {"model": "step3-small", "name": "s", **rng.choice(SCENARIOS), "run": {"stop": {"max_sim_time": "1s"}}}
    path = _yaml(folder, "s.yaml", given)
    if (chance := rng.random()) < 0.8:
        change = mutations.gentle if chance < 0.4 else mutations.tree
        path.write_text(json.dumps(change(rng, given)), encoding="utf-8")
    else:
        changed = mutations.text(rng, path.read_text(encoding="utf-8"))
        path.write_text(changed, encoding="utf-8", errors="surrogatepass")
    return ("run", "s.yaml", *QUIET)


def _trace(rng: random.Random, folder: Path) -> tuple[str, ...]:
    name = rng.choice(list(TRACES))
    if rng.random() < 0.2:
        (folder / name).write_bytes(mutations.data(rng, TRACES[name].encode()))
    else:
        (folder / name).write_text(mutations.text(rng, TRACES[name]), encoding="utf-8", errors="surrogatepass")
    workload = {"arrival": {"process": "trace"}, "trace": {"path": name}}
    stop = {"stop": {"max_sim_time": "60s"}}
    _yaml(folder, "s.yaml", {"model": "step3-small", "deployment": AFD, "workload": workload, "run": stop})
    return ("run", "s.yaml", *QUIET)


def _config(rng: random.Random, folder: Path) -> tuple[str, ...]:
    given = json.loads(rng.choice(_shapes()).read_text(encoding="utf-8"))["config"]
    path = folder / "config.json"
    path.write_text(json.dumps(mutations.tree(rng, given)), encoding="utf-8")
    if rng.random() < 0.2:
        path.write_text(mutations.text(rng, path.read_text(encoding="utf-8")), encoding="utf-8", errors="surrogatepass")
    return ("check", "config.json")


@cache
def _shapes() -> list[Path]:
    return sorted(SHAPES.glob("*.json"))


def _sweep(rng: random.Random, folder: Path) -> tuple[str, ...]:
    _yaml(folder, "base.yaml", {"model": "step3-small", "deployment": AFD, "workload": CLOSED})
    path = folder / "s.sweep.yaml"
    if rng.random() < 0.7:
        path.write_text(json.dumps(mutations.tree(rng, SWEEP)), encoding="utf-8")
    else:
        path.write_text(mutations.text(rng, yamlfile.dump(SWEEP)), encoding="utf-8", errors="surrogatepass")
    return ("sweep", "s.sweep.yaml", "--workers", "1", "--quiet", *(("--dry-run",) if rng.random() < 0.5 else ()))


def _coefficients(rng: random.Random, folder: Path) -> tuple[str, ...]:
    (folder / "c.csv").write_text(mutations.text(rng, COEFFICIENTS), encoding="utf-8", errors="surrogatepass")
    asked = ("--model", "step3-small", "--gpu", "H800", "--batch", "8", "--context", "512")
    return ("explain", *asked, "--coefficients", "c.csv")


def _counts(rng: random.Random, folder: Path) -> tuple[str, ...]:
    counts = ",".join(str(1 + at) for at in range(48)) + "\n"
    (folder / "e.csv").write_text(mutations.text(rng, counts), encoding="utf-8", errors="surrogatepass")
    experts = {"law": "trace", "path": "e.csv"}
    _yaml(
        folder,
        "s.yaml",
        {"model": "step3-small", "deployment": EP, "workload": CLOSED, "variation": {"experts": experts}},
    )
    return ("run", "s.yaml", *QUIET)


# what afdsim wrote ----------------------------------------------------------------------------------------------------


def _written(words: tuple[str, ...], shelf: Path) -> None:
    """Let a command write its folders once, to be copied."""
    import os

    before = Path.cwd()
    shelf.mkdir(parents=True, exist_ok=True)
    os.chdir(shelf)
    try:
        _yaml(shelf, "base.yaml", {"model": "step3-small", "deployment": AFD, "workload": CLOSED})
        _yaml(shelf, "s.sweep.yaml", SWEEP)
        done = CliRunner().invoke(main, list(words))
        assert done.exit_code == 0, done.output
    finally:
        os.chdir(before)


@cache
def shelf(kind: str) -> Path:
    """Return a folder with what a command wrote, made on first use."""
    made = scratch() / f"shelf of {kind}"
    _written(WORDS[kind], made)
    return made


WORDS = {
    "run": ("run", "base.yaml", "-o", "out", "--quiet", "--no-marginal"),
    "sweep": ("sweep", "s.sweep.yaml", "--workers", "1", "-o", "out", "--cache", "points", "--quiet"),
}


def _damaged(rng: random.Random, folder: Path, kind: str, part: str) -> None:
    """Copy what a command wrote, and change one of its files below `part`."""
    shutil.copytree(shelf(kind), folder, dirs_exist_ok=True)
    files = sorted(
        path for path in (folder / part).rglob("*") if path.is_file() and path.suffix not in {".png", ".svg"}
    )
    path = rng.choice([each for each in files if each.name not in {"run.log", "report.html"}])
    match rng.randrange(5):
        case 0 if path.suffix == ".parquet":
            mutations.table(rng, path)
        case 1 if path.suffix == ".json":
            path.write_text(json.dumps(mutations.tree(rng, _json(path))), encoding="utf-8")
        case 2:
            path.unlink()
        case 3 if len(files) > 1:
            path.write_bytes(rng.choice(files).read_bytes())
        case _:
            path.write_bytes(mutations.data(rng, path.read_bytes()))


def _json(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(text.splitlines()[0])


def _folder(rng: random.Random, folder: Path) -> tuple[str, ...]:
    _damaged(rng, folder, "run", "out")
    return ("report", "out", "-o", "page.html") if rng.random() < 0.5 else ("verify", "out")


def _points(rng: random.Random, folder: Path) -> tuple[str, ...]:
    _damaged(rng, folder, "sweep", "points")
    return (*WORDS["sweep"], "--force")


def _shards(rng: random.Random, folder: Path) -> tuple[str, ...]:
    _damaged(rng, folder, "sweep", "out")
    return ("report", "out", "-o", "page.html")


TARGETS = (
    Target(name="scenario", write=_scenario),
    Target(name="trace", write=_trace),
    Target(name="config", write=_config),
    Target(name="sweep", write=_sweep, codes=(0, 1, 2)),
    Target(name="coefficients", write=_coefficients),
    Target(name="routing counts", write=_counts),
    Target(name="run folder", write=_folder, codes=(0, 1, 2)),
    Target(name="sweep table", write=_shards),
    Target(name="cache entry", write=_points, codes=(0,)),
)
