"""What the network knows of the task: bottleneck and label features, t-SNE of them, and a score of their clusters.

Supplement of "Multi-task image-to-image diffusion models with fine-grained control", section D and Fig. 4. t-SNE
pictures persuade whoever looks; the silhouette says in a number how much nearer a sample lies to its own task's samples
than to the nearest other task's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from repro.ddpm.process import q_sample
from repro.editing.sampling import Editor
from repro.editing.study.benchmark import Split
from repro.editing.vector import TASKS
from repro.engine.rng import KeyedNoise

LEVEL = 500  # timestep at which the bottleneck is looked at


@torch.no_grad()
def of(editor: Editor, data: Split, level: int = LEVEL) -> tuple[Tensor, Tensor, Tensor]:
    """(bottleneck (5 N, C), label features (5 N, D), task (5 N,)) of every single edit of N crops.

    The bottleneck's mean over positions, of the target's latent noised to `level`; labels f_theta(C), flattened.
    """
    bottlenecks, tokens, tasks = [], [], []
    for number, task in enumerate(TASKS):
        vectors = [vector.only(task) for vector in data.vectors]
        needed = {
            "reference": data.reference if task == "colour" else None,
            "hole": data.hole if task == "inpaint" else None,
        }
        shown, _ = editor.conditions(data.sharp, vectors, **needed)
        z = editor.autoencoder.encode((data.edit(task).target * 2 - 1).to(shown["source"].device))
        eps = KeyedNoise(0, list(data.ids), "features/noise", z.device).normal(tuple(z.shape[1:]))
        t = torch.full((len(z),), level, device=z.device)
        _, bottleneck, token = editor.network(q_sample(z, t, eps, editor.schedule), t, **shown, features=True)
        bottlenecks.append(bottleneck.mean(dim=(2, 3)).cpu())
        tokens.append(token.flatten(1).cpu())
        tasks.append(torch.full((len(z),), number))
    return torch.cat(bottlenecks), torch.cat(tokens), torch.cat(tasks)


def silhouette(points: Tensor, group: Tensor) -> Tensor:
    """(N,) silhouettes in [-1, 1] of points (N, D) in groups (N,) (Rousseeuw, 1987): 1 far inside its own group.

    (b - a) / max(a, b), a the mean distance to the own group's other points, b that to the nearest other group; 0 for
    a group of one, and where all points coincide.
    """
    distance = torch.cdist(points.double(), points.double())
    groups = group.unique()
    member = (group[:, None] == groups[None, :]).double()  # (N, G)
    sums, sizes = distance @ member, member.sum(dim=0)
    own = member.bool()
    size = sizes[None, :].expand_as(sums)
    a = sums[own] / (size[own] - 1).clamp(min=1)
    b = torch.where(own, torch.inf, sums / size).min(dim=1).values
    most = torch.maximum(a, b)
    return torch.where((size[own] > 1) & (most > 0), (b - a) / most.clamp(min=1e-300), 0.0)


def tsne(points: Tensor, perplexity: float = 20.0, steps: int = 500, seed: int = 0) -> Tensor:
    """(N, 2) t-SNE map of points (N, D) (van der Maaten and Hinton, 2008); exact, for a few hundred points.

    Perplexity is met by bisection; early exaggeration 4 for the first 100 steps; start and result depend on `seed`.
    """
    x = points.double()
    n = len(x)
    distance = torch.cdist(x, x).square()
    distance = distance / distance.mean().clamp(min=1e-12)
    away = ~torch.eye(n, dtype=torch.bool)
    low, high = torch.full((n,), 1e-6, dtype=torch.float64), torch.full((n,), 1e6, dtype=torch.float64)
    for _ in range(60):
        beta = (low * high).sqrt()
        p = torch.softmax(torch.where(away, -distance * beta[:, None], -torch.inf), dim=1)
        entropy = -(p * p.clamp(min=1e-300).log()).sum(dim=1)
        wide = entropy > torch.log(torch.tensor(float(min(perplexity, (n - 1) / 3))))
        low, high = torch.where(wide, beta, low), torch.where(wide, high, beta)
    p = ((p + p.T) / (2 * n)).clamp(min=1e-12)
    y = KeyedNoise(seed, range(n), "tsne").normal((2,)).double() * 1e-2
    velocity, gain = torch.zeros_like(y), torch.ones_like(y)
    for step in range(steps):
        near = torch.where(away, 1 / (1 + torch.cdist(y, y).square()), 0.0)
        pull = (p * (4 if step < 100 else 1) - near / near.sum()) * near
        gradient = 4 * (pull.sum(dim=1, keepdim=True) * y - pull @ y)
        same = gradient.sign() == velocity.sign()
        gain = torch.where(same, gain * 0.8, gain + 0.2).clamp(min=0.01)
        velocity = (0.5 if step < 100 else 0.8) * velocity - 10 * gain * gradient * n / 20
        y = y + velocity
        y = y - y.mean(dim=0)
    return y.float()
