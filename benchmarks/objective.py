"""Cost of a step of the objective, compared with a dense baseline, and the error of the estimate from the pool.

    python benchmarks/objective.py                          # N = 10^4, 10^5; B = 32; minutes on two cores
    python benchmarks/objective.py --patches 10000 100000 681486 1000000 --batches 32 128
    python benchmarks/objective.py --device cuda --patches 681486 --batches 256 --growth 1000000 10000000

A step is losses and backward, without encoders. The corpus is artificial: full slides of 100 x 100 patches, and banks of
groups with known labels, which control the size of the clusters and with it |near(u)|. The baseline implements the equations
directly: masks over all N, full sorts, K draws for each anchor. It runs only if its estimated memory fits 60 % of the free
memory; nothing is extrapolated.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from counting import counted
from memory import peak_mib, reset_peak, status_mib
from torch import Tensor
from torch.nn.functional import normalize, softplus

from sgcl_cli.config import ObjectiveOptions
from sgcl_cli.engine.runtime import Runtime, free_bytes
from sgcl_cli.method import sets
from sgcl_cli.method.negatives import Sampler
from sgcl_cli.method.objective import Embedded
from sgcl_cli.method.resolve import resolve
from sgcl_cli.method.settings import share_of
from sgcl_cli.method.sgcl import SGCL

SIDE = 100
DIM, HIDDEN = 128, 512
TIGHT, LOOSE = 0.05, 1.5
FRESHNESS = 0.05
NEVER = -1e30


def objective_over(n: int, cluster_size: int, device: str, spread: float = TIGHT, **changes: object) -> SGCL:
    """An objective with banks of groups of ``cluster_size`` similar rows; all clusterings are the groups.

    :param spread: length of the noise added to the unit centre of a group; TIGHT saturates near(u), LOOSE makes L_sp hard.
    """
    place = torch.arange(n)
    cell = torch.stack([place % SIDE, place // SIDE % SIDE], 1).double()
    settings, _ = resolve(ObjectiveOptions(**{"negatives": 4_096, "negative_law": "beta", **changes}), n, 100, 128)
    objective = SGCL(settings, place // SIDE**2, cell, dim=DIM, hidden_dim=HIDDEN, seed=0, device=device)
    groups = max(1, n // cluster_size)
    draw = torch.Generator().manual_seed(0)
    label = torch.randint(groups, (n,), generator=draw).to(device)
    for rows in (objective.bank_v, objective.bank_h):
        centre = normalize(torch.randn(groups, rows.shape[1], generator=draw)).to(device)
        for part, labels in zip(torch.split(rows, 65_536), torch.split(label, 65_536), strict=True):
            part.copy_(normalize(centre[labels] + spread * part.float()))
    objective.adopt(label[:, None].expand(-1, settings.clusterings))
    return objective


def batch_of(objective: SGCL, size: int, seed: int) -> tuple[Tensor, Embedded]:
    draw = torch.Generator().manual_seed(seed)
    index = torch.randperm(objective.n, generator=draw)[:size].to(objective.device)

    def fresh(rows: Tensor) -> Tensor:
        noise = torch.randn(size, rows.shape[1], generator=draw).to(objective.device)
        return normalize(rows[index].float() + FRESHNESS * noise)

    corners = torch.stack([fresh(rows) for rows in objective.bank_corners])
    v, h = fresh(objective.bank_v).requires_grad_(), fresh(objective.bank_h)
    return index, Embedded(v, h, corners.requires_grad_())


def dense_losses(objective: SGCL, index: Tensor, query: Embedded, epoch: float, step: int) -> Tensor:
    """The total loss of the same equations, over all N at every step."""
    v, h, corners = query.v, query.h, query.corners
    settings, n, size = objective.settings, objective.n, len(index)
    m, hb = objective.bank_v.float(), objective.bank_h.float()
    draw = torch.Generator().manual_seed(step)

    def instance(query: Tensor, own: Tensor, banks: list[Tensor], count: int) -> Tensor:
        logits = []
        for rows in banks:
            drawn = torch.randint(n, (size, count), generator=draw).to(index.device)
            s = torch.einsum("bd,bkd->bk", query, rows[drawn].float()) / settings.temperature
            logits.append(s.masked_fill(drawn == index[:, None], NEVER))
        return softplus(torch.cat(logits, 1).logsumexp(1) - (query * own).sum(1) / settings.temperature)

    own = [rows[index].float() for rows in objective.bank_corners]
    inner = [
        instance(corners[c], own[c], objective.bank_corners, settings.corner_negatives) for c in range(len(corners))
    ]
    total = instance(v, m[index], [m], settings.uniform_negatives).mean() + torch.stack(inner).mean()
    s_v = v @ m.T
    positive, ordered = dense_sets(objective, index, s_v=s_v.detach(), s_near=v.detach() @ m.T, s_h=h @ hb.T, m=m)
    top = ordered[:, : share_of(settings.top_share, n)]
    u = objective.sampler.at(step).quantile
    chosen = top.gather(1, (u * top.shape[1]).long().expand(size, -1))
    logit = s_v / settings.spatial_temperature
    log_p = logit.masked_fill(~positive, NEVER).logsumexp(1)
    log_q = logit.gather(1, chosen).logsumexp(1)
    return total + (torch.logaddexp(log_p, log_q) - log_p)[positive.any(1)].mean()


@torch.no_grad()
def dense_sets(
    objective: SGCL, index: Tensor, *, s_v: Tensor, s_near: Tensor, s_h: Tensor, m: Tensor
) -> tuple[Tensor, Tensor]:
    """P as a mask over all N, and all other patches sorted by their similarity to h."""
    settings, n = objective.settings, objective.n
    place = torch.arange(n, device=index.device)
    slide, cell = place // SIDE**2, torch.stack([place % SIDE, place // SIDE % SIDE], 1).float()
    distance = (cell[index][:, None] - cell).square().sum(2).sqrt()
    spatial = (slide[index][:, None] == slide) & (distance > 0) & (distance < settings.radius)
    auxiliary = s_v.masked_fill(~spatial, NEVER).argmax(1)
    positive = spatial.clone()
    labels = objective.clusters.labels
    for patch, s in ((index, s_near), (auxiliary, m[auxiliary] @ m.T)):
        out = (place == patch[:, None]) | (place == index[:, None])
        nearest = s.masked_fill(out, NEVER).argsort(1, descending=True)[:, : settings.neighbours]
        near = torch.zeros_like(positive).scatter_(1, nearest, True)
        positive |= near & (labels[patch][:, None] == labels).all(2)
    out = positive | (place == index[:, None])
    return positive, s_h.masked_fill(out, NEVER).argsort(1, descending=True)


def dense_bytes(n: int, size: int) -> int:
    """Estimated memory of the baseline: gathered draws kept for backward, and tables of B x N."""
    settings, _ = resolve(ObjectiveOptions(negatives=4_096), n, 100, size)
    gathered = 5 * size * settings.uniform_negatives * DIM * 4
    return gathered + size * n * (4 * 8 + 8 * 6 + 3 * 4)


@contextmanager
def peak_bytes(device: str) -> Iterator[Callable[[], float]]:
    """Peak memory beyond that before, in bytes; NaN where the system does not allow measuring it."""
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    ctypes.CDLL(None).malloc_trim(0)
    try:
        reset_peak()
        before = status_mib("VmRSS")
        yield lambda: 2**20 * (peak_mib() - before)
    except OSError:
        yield lambda: float("nan")


def seconds(run: Callable[..., Tensor], objective: SGCL, size: int, repeats: int) -> tuple[float, float]:
    """Median seconds of a step with backward, after one warm-up step, and its peak memory beyond the banks."""
    times, device = [], str(objective.device)
    with peak_bytes(device) as peak:
        for step in range(-1, repeats):
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            batch = batch_of(objective, size, step + 1)
            start = time.perf_counter()
            run(*batch, epoch=99.0, step=step + 1).backward()
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:]), peak()


def fast(objective: SGCL) -> Callable[..., Tensor]:
    return lambda *batch, **when: objective.losses(*batch, **when).total


def asked(objective: SGCL, size: int) -> str:
    """Operations, waits and milliseconds of a step with backward, as text: the mean of eight steps that share their draws."""
    runtime = Runtime(objective.device, None)
    batches, single = [batch_of(objective, size, step) for step in range(8)], fast(objective)

    def steps() -> None:
        for step, batch in enumerate(batches):
            single(*batch, epoch=99.0, step=8 + step).backward()

    counts = counted(steps)
    spent = runtime.spent(steps, 3)
    host = (
        f", {125 * spent.host:.2f} ms of the host, {125 * spent.device:.2f} ms of the device" if runtime.on_cuda else ""
    )
    return f"{'':>15} {counts.operations / 8:.0f} operations, {counts.waits / 8:g} waits{host}"


def compare(options: argparse.Namespace) -> None:
    print(
        f"{'N':>10} {'B':>4} {'step s':>9} {'peak MB':>8} {'dense s':>9} {'peak MB':>8} {'ratio':>7}   banks and lists MB"
    )
    for n in options.patches:
        objective = objective_over(n, options.cluster_size, options.device, bank_dtype=options.banks)
        held = objective.bytes_needed(objective.settings, n, dim=DIM, hidden_dim=HIDDEN) / 1e6
        for size in options.batches:
            ours, our_peak = seconds(fast(objective), objective, size, options.repeats)
            line = f"{n:>10,} {size:>4} {ours:>9.4f} {our_peak / 1e6:>8.0f}"
            need, room = dense_bytes(n, size), 0.6 * (free_bytes(Runtime(objective.device, None)) or math.inf)
            if need > room:
                line += f" does not fit: {need / 1e9:.0f} GB of {room / 1e9:.0f} GB"
            else:
                theirs, their_peak = seconds(partial(dense_losses, objective), objective, size, options.dense_repeats)
                line += f" {theirs:>9.3f} {their_peak / 1e6:>8.0f} {theirs / ours:>7.1f}"
            print(f"{line}   {held:.0f}", flush=True)
            print(f"{asked(objective, size)}", flush=True)


def growth(options: argparse.Namespace) -> None:
    first, second = options.growth
    k = 4_096
    for name, size, changes in (
        (f"near(u) saturated at k = {k:,}", k + k // 16, {"neighbours": k}),
        (f"clusters of {options.cluster_size}", options.cluster_size, {}),
    ):
        print(f"\n{name}")
        for batch in options.batches:
            found = []
            for n in (first, second):
                objective = objective_over(n, size, options.device, bank_dtype=options.banks, **changes)
                taken, peak = seconds(fast(objective), objective, batch, options.repeats)
                index, query = batch_of(objective, batch, 0)
                chosen = objective.select(index, query.v.detach(), query.h, objective.sampler.at(0))
                propagated = sets.sizes(chosen.propagated, index).mean()
                print(
                    f"{n:>10,} {batch:>4} {taken:>9.4f} s {peak / 1e6:>6.0f} MB   |P_se| = {propagated:,.0f}",
                    flush=True,
                )
                found.append(taken)
                del objective
            print(f"growth {found[1] / found[0]:.2f}")


def bias(options: argparse.Namespace) -> None:
    n, size = options.bias, 16
    pooled = objective_over(n, options.cluster_size, options.device, LOOSE, bank_dtype=options.banks)
    settings = pooled.settings
    if n <= settings.pool:
        print(f"\nN = {n:,} fits the pool of {settings.pool:,}: exact, no bias to report")
        return
    print(f"\npool of {settings.pool:,} against N = {n:,}, {options.draws} draws, B = {size}")
    index, query = batch_of(pooled, size, 0)
    v, h = query.v, query.h
    shares, laws, losses, errors = [], [], {"pool": [], "exact": []}, []
    sums = {"pool": torch.zeros_like(v), "exact": torch.zeros_like(v)}
    for step in range(options.draws):
        gradients = {}
        for name, pool in (("exact", n), ("pool", settings.pool)):
            pooled.settings = replace(settings, pool=pool, weight_self=0.0, weight_inner=0.0)
            pooled.sampler = Sampler(pooled.settings, n, pooled.seed, pooled.device, uniform=0)
            got = pooled.losses(index, query, epoch=99.0, step=step)
            (gradients[name],) = torch.autograd.grad(got.total, v)
            losses[name].append(float(got.terms["spatial"].value))
            sums[name] += gradients[name]
        errors.append(float((gradients["pool"] - gradients["exact"]).norm() / gradients["exact"].norm()))
        shares.append(true_rank_shares(pooled, index, v.detach(), h, step))
        laws.append(settings.top_share * pooled.sampler.at(step).quantile.cpu())
    drawn, law = torch.cat(shares), torch.cat(laws)
    points = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    print("true rank of the draws, share of N:  mean     5 %      25 %     50 %     75 %     95 %")
    for name, values in (("pool", drawn), ("exact law", law)):
        cells = [values.mean(), *values.sort().values[(points * values.numel()).long()]]
        print(f"{name:>35}  " + "  ".join(f"{100 * float(cell):6.3f}%" for cell in cells))
    mean = {name: statistics.fmean(values) for name, values in losses.items()}
    single = [abs(a / b - 1) for a, b in zip(losses["pool"], losses["exact"], strict=True)]
    gradient = float((sums["pool"] - sums["exact"]).norm() / sums["exact"].norm())
    print(
        f"L_sp: exact {mean['exact']:.5f}, pool {mean['pool']:.5f}: {100 * (mean['pool'] / mean['exact'] - 1):+.3f} %"
    )
    print(f"L_sp of one step: {100 * statistics.fmean(single):.3f} % off on average")
    print(f"gradient: {100 * gradient:.3f} % off over all draws, {100 * statistics.fmean(errors):.2f} % in one step")


@torch.no_grad()
def true_rank_shares(objective: SGCL, index: Tensor, v: Tensor, h: Tensor, step: int) -> Tensor:
    """Ranks in the whole bank of the patches drawn by rank in the pool, as shares of N."""
    chosen = objective.select(index, v, h, objective.sampler.at(step))
    s = h @ objective.bank_h.float().T
    s[torch.arange(len(index)), index] = NEVER
    s.scatter_(1, chosen.positives, NEVER)
    ascending = s.sort(1).values
    drawn = s.gather(1, chosen.pool[chosen.position])
    rank = objective.n - torch.searchsorted(ascending, drawn, right=True)
    return (rank.double() / objective.n).flatten().cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--batches", type=int, nargs="+", default=[32])
    parser.add_argument("--growth", type=int, nargs="*", default=[100_000, 1_000_000], help="two N, or none to skip")
    parser.add_argument("--bias", type=int, default=100_000, help="N of the second part; 0 to skip")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--cluster-size", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dense-repeats", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--banks", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads")
    if options.patches:
        compare(options)
    if options.growth:
        growth(options)
    if options.bias:
        bias(options)


if __name__ == "__main__":
    main()
