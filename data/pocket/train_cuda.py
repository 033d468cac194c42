"""Train all seeds and configurations of a job at once on a GPU, one CUDA graph a step.

The arithmetic is that of ``train.py``: the same initialisation, windows, optimiser, bf16 products
and fp32 weights, in other kernels, so that losses agree up to rounding. Models this small are bound
by the launching of kernels; so the whole step (windows, loss, gradients, AdamW) is captured once
and replayed, every run has its own batch, and the weights of a run are one row of one matrix.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from train import (
    BETA1,
    BETA2,
    EPSILON,
    WEIGHT_DECAY,
    Batches,
    Params,
    init,
    losses,
    schedule,
)


class Trainer:
    """Weights, moments, data and schedule of all runs on the device, and one training step."""

    def __init__(self, size, configs, steps, tokens, batch, ctx, seeds, start, device, compile_):
        self.size, self.batch, self.ctx = size, batch, ctx
        runs = [(k, config) for k in range(len(seeds)) for config in configs]
        self.n_runs = len(runs)
        torch.compiler.reset()  # each job has its own shapes
        self.losses = torch.compile(losses, dynamic=False) if compile_ else losses
        firsts = [start if start is not None else init(size, 1, seed) for seed in seeds]
        self.shapes = {k: v.shape[1:] for k, v in firsts[0].items()}
        rows = [
            torch.cat([v.detach().reshape(-1) for v in (first[k] for k in self.shapes)])
            for first in firsts
        ]
        self.weights = torch.stack([rows[k] for k, _ in runs]).to(device)  # (runs, parameters)
        self.first, self.second = (torch.zeros_like(self.weights) for _ in range(2))
        # Norm gains do not decay.
        self.decays = torch.cat(
            [
                torch.full((shape.numel(),), 0.0 if k.split(".")[-1].startswith("n") else 1.0)
                for k, shape in self.shapes.items()
            ]
        ).to(device)
        data = [Batches(tokens, batch, ctx, seed) for seed in seeds]
        self.data = data[0]
        self.tokens = torch.from_numpy(tokens).to(device)
        self.order = torch.from_numpy(np.stack([d.train_idx for d in data])).to(device)
        self.seed_of = torch.tensor([k for k, _ in runs], device=device)
        rates = np.stack([schedule(config, steps) for _, config in runs], axis=1)
        self.rates = torch.tensor(rates, dtype=torch.float32, device=device)  # (steps, runs)
        t = np.arange(1, steps + 1)
        bias = np.stack([1 - BETA1**t, 1 - BETA2**t], axis=1)
        self.bias = torch.tensor(bias, dtype=torch.float32, device=device)
        self.curve = torch.zeros(steps, self.n_runs, device=device)
        self.t = torch.zeros(1, dtype=torch.int64, device=device)
        self.within = torch.arange(ctx + 1, device=device)
        self.in_batch = torch.arange(batch, device=device)

    def views(self, flat: torch.Tensor) -> Params:
        """Return the named weights of every run as views of the matrix of all weights."""
        parts = flat.split([shape.numel() for shape in self.shapes.values()], dim=1)
        return {
            k: part.view(self.n_runs, *shape)
            for (k, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def step(self) -> None:
        """Do one step of AdamW with clipping for every run; the step counter is on the device."""
        at = (self.t * self.batch) % (self.order.shape[1] - self.batch) + self.in_batch
        windows = self.order[self.seed_of[:, None], at]  # (runs, batch)
        tokens = self.tokens[windows[..., None] * self.ctx + self.within].long()
        views = self.views(self.weights.to(torch.bfloat16))
        leaves = {k: v.detach().requires_grad_(True) for k, v in views.items()}
        loss = self.losses(leaves, tokens[..., :-1], tokens[..., 1:], self.size)
        grads = torch.autograd.grad(loss.sum(), list(leaves.values()))
        with torch.no_grad():
            self.curve.index_copy_(0, self.t, loss.detach()[None])
            g = torch.cat([part.reshape(self.n_runs, -1) for part in grads], dim=1).float()
            norm = g.square().sum(1).sqrt()
            clip = (1.0 / norm.clamp_min(1e-12)).clamp_max(1.0)
            # A configuration with a gradient that is not finite takes no step.
            clip = torch.where(torch.isfinite(norm), clip, torch.zeros_like(norm))
            g = torch.nan_to_num(g) * clip[:, None]
            self.first.lerp_(g, 1 - BETA1)
            self.second.lerp_(g * g, 1 - BETA2)
            bias = self.bias[self.t]  # (1, 2)
            root = (self.second / bias[:, 1]).sqrt_().add_(EPSILON)
            update = (self.first / bias[:, 0]) / root
            rate = self.rates[self.t].view(-1, 1)
            self.weights.mul_(1 - rate * WEIGHT_DECAY * self.decays)
            self.weights.sub_(rate * update)
            self.t.add_(1)

    def captured(self):
        """Return the step as one CUDA graph; the state is what it was before."""
        state = [self.weights, self.first, self.second, self.t]
        kept = [part.clone() for part in state]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        for part, before in zip(state, kept, strict=True):
            part.copy_(before)
        return graph.replay

    @torch.no_grad()
    def final_losses(self) -> torch.Tensor:
        """Return the loss on the held-out windows, shape (runs,)."""
        p = self.views(self.weights)
        device = self.weights.device
        parts = [
            losses(p, x.to(device), y.to(device), self.size)
            for x, y in self.data.val(chunk=self.batch)
        ]
        return torch.stack(parts).mean(0)


def train_seeds(
    size, configs, steps, tokens, batch, ctx, seeds, start, device="cuda", compile_=False
):
    """Train every configuration with every seed; return curves, final losses and weights.

    Runs are ordered by seed, then by configuration. On a CPU the same step runs without a graph.
    """
    began = time.time()
    trainer = Trainer(size, configs, steps, tokens, batch, ctx, seeds, start, device, compile_)
    one_step = trainer.captured() if device == "cuda" else trainer.step
    print(f"{size} x{trainer.n_runs} ready after {time.time() - began:.1f}s", file=sys.stderr)
    began = time.time()
    for t in range(steps):
        one_step()
        if (t + 1) % max(1, steps // 4) == 0:
            best = float(trainer.curve[t].min())  # waits for the device
            spent = time.time() - began
            print(
                f"{size} x{trainer.n_runs} {t + 1}/{steps} best {best:.3f} {spent:.1f}s "
                f"{1e3 * spent / (t + 1):.2f} ms/step",
                file=sys.stderr,
                flush=True,
            )
    final = trainer.final_losses().cpu().numpy()
    weights = {k: v.cpu().contiguous() for k, v in trainer.views(trainer.weights).items()}
    return trainer.curve.cpu().numpy(), final, weights
