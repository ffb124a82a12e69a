"""Small measurements of notebook 02: strengths of effects (claims E13, E14), attention, gradients, features."""

import math
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.data.grain import SIGMA_FILTER
from repro.ddpm.process import q_sample
from repro.editing.sampling import Editor
from repro.editing.study.benchmark import Split, edits, encoded
from repro.editing.vector import TASKS, EditingVector
from repro.engine.rng import KeyedNoise

LEVEL = 500  # timestep at which attention and bottleneck are measured
GRAIN_COARSE = 2.0  # pixels: a Gaussian that grain's filter passes and the image's shapes do not
COARSE = 1.5  # pixels: the Gaussian under which grain's energy is a hundredth of an edge's
FLAT_SHARE = 0.25  # of the pixels, those where the source varies least
LEAST = 0.01  # of every measure below: smaller differences are none (targets' sliders alone span 0.6 and more)


@torch.no_grad()
def attention(editor: Editor, data: Split, vector: EditingVector) -> dict[str, Tensor]:
    """layer -> (tokens,): the mean weight of each token in every cross-attention, of these crops' edits noised to
    LEVEL. {} for a network that has no tokens."""
    if editor.network.mapping is None:
        return {}
    queries: dict[str, Tensor] = {}
    inputs, _ = editor.conditions(data.sharp, [vector] * len(data), data.reference, data.hole)
    named = [(name, m) for name, m in editor.network.unet.named_modules() if name.endswith("attn2")]
    layers = dict(sorted(named, key=lambda pair: pair[0][:2]))  # down, middle, up: as they run
    z_t = KeyedNoise(0, list(data.ids), "probes/attention").normal(tuple(inputs["source"].shape[1:]))
    with ExitStack() as hooks:
        for name, module in layers.items():
            keep = partial(lambda name, _, args: queries.update({name: args[0]}), name)
            hooks.enter_context(module.register_forward_pre_hook(keep))
        editor.network(z_t, LEVEL, **inputs)
    tokens, means = editor.network.mapping(inputs["vector"]), {}
    for name, module in layers.items():
        query, key = (module.head_to_batch_dim(part) for part in (module.to_q(queries[name]), module.to_k(tokens)))
        weights = torch.softmax(query @ key.transpose(1, 2) * module.scale, dim=-1)  # (B heads, positions, tokens)
        means[name.split(".transformer")[0].replace("attentions.", "")] = weights.mean(dim=(0, 1))
    return means


def held(editor: Editor, data: Split) -> dict[str, Tensor]:
    """Crops and their edits as training keeps them, latents and vectors: see `study.benchmark.encoded`."""
    return {name: value.float() for name, value in encoded(editor.autoencoder, edits(data)).items()}


@torch.no_grad()
def task_features(editor: Editor, data: Split) -> tuple[Tensor, Tensor, Tensor]:
    """(bottleneck (5 N, C), label features (5 N, D), task (5 N,)) of every single edit of N crops.

    The bottleneck's mean over positions, of the target's latent noised to LEVEL; labels f_theta(C), flattened
    (supplement, section D and Fig. 4).
    """
    points = []
    for number, task in enumerate(TASKS):
        inputs, _ = editor.conditions(data.sharp, [v.only(task) for v in data.vectors], data.reference, data.hole)
        z = editor.autoencoder.encode((data.target([task]) * 2 - 1).to(inputs["source"].device))
        eps = KeyedNoise(0, list(data.ids), "features/noise", z.device).normal(tuple(z.shape[1:]))
        t = torch.full((len(z),), LEVEL, device=z.device)
        _, bottleneck, tokens = editor.network(q_sample(z, t, eps, editor.schedule), t, **inputs, features=True)
        points.append((bottleneck.mean(dim=(2, 3)).cpu(), tokens.flatten(1).cpu(), torch.full((len(z),), number)))
    return tuple(map(torch.cat, zip(*points, strict=True)))


def silhouette(points: Tensor, group: Tensor) -> Tensor:
    """(N,) silhouettes in [-1, 1] of points (N, D) in groups (N,) (Rousseeuw, 1987): 1 far inside its own group.

    (b - a) / max(a, b), a the mean distance to the own group's other points, b that to the nearest other group; 0 for a
    group of one, and where all points coincide.
    """
    own = group[:, None] == group.unique()[None, :]  # (N, G)
    sums = torch.cdist(points.double(), points.double()) @ own.double()
    size = own.double().sum(dim=0).expand_as(sums)
    a = sums[own] / (size[own] - 1).clamp(min=1)
    b = torch.where(own, torch.inf, sums / size).min(dim=1).values
    most = torch.maximum(a, b)
    return torch.where((size[own] > 1) & (most > 0), (b - a) / most.clamp(min=1e-300), 0.0)


def tsne(points: Tensor, perplexity: float = 20.0, steps: int = 500, seed: int = 0) -> Tensor:
    """(N, 2) t-SNE map of points (N, D) (van der Maaten and Hinton, 2008); exact, for a few hundred points.

    Early exaggeration 4 for the first 100 steps; start and result depend on `seed`.
    """
    n, apart = len(points), 1 - torch.eye(len(points), dtype=torch.float64)
    distance = torch.cdist(points.double(), points.double()).square()
    distance = (distance / distance.mean().clamp(min=1e-12)).fill_diagonal_(torch.inf)
    rows = torch.softmax(-torch.logspace(-4, 4, 400).double()[:, None, None] * distance, dim=2)  # of 400 bandwidths
    excess = torch.special.entr(rows).sum(dim=2) - math.log(min(perplexity, (n - 1) / 3))  # (400, N)
    p = rows[excess.abs().argmin(dim=0), torch.arange(n)]  # each point's bandwidth is the one of that perplexity
    p, y = (p + p.T) / (2 * n), KeyedNoise(seed, range(n), "tsne").normal((2,)).double().requires_grad_()
    optimizer = torch.optim.Adam([y], lr=1.0)
    for step in range(steps):
        near = apart / (1 + (y[:, None] - y[None]).square().sum(dim=2))
        loss = -((4 if step < 100 else 1) * p * (near / near.sum()).clamp(min=1e-12).log()).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return y.detach().float()


# A strength compares an image with the one that it was made from; it grows with one effect and ignores the others.


def blur_strength(edited: Tensor, source: Tensor) -> Tensor:
    """(B,) share of the gradient energy per contrast that is gone, both at coarse scale; 0 as sharp as the source.

    Coarse is below the frequencies of grain. Contrast is the variance over the image: a colour transfer stretches it
    and every gradient with it.
    """
    coarse = [_gaussian(image, COARSE) for image in (edited, source)]
    own, whole = (_gradient(x) / x.var(dim=(2, 3), unbiased=False).mean(dim=1).clamp(min=1e-12) for x in coarse)
    return 1 - own / whole.clamp(min=1e-12)


def grain_strength(edited: Tensor, source: Tensor) -> Tensor:
    """(B,) standard deviation, in grey levels of 255, of grain's own band in the flattest quarter of the source.

    The band: what passes the filter that grain itself went through (the matched filter of noise of that spectrum), less
    what is coarser than GRAIN_COARSE: below the grain's full deviation, and noise of single pixels hardly counts. The
    median over the flat places keeps edges out.
    """
    detail = _gaussian(edited, SIGMA_FILTER) - _gaussian(edited, GRAIN_COARSE)
    smooth = F.pad(_gaussian(source, COARSE).mean(dim=1, keepdim=True), (1,) * 4, mode="reflect")
    across = (smooth[..., 1:-1, 2:] - smooth[..., 1:-1, :-2]).square()
    change = across + (smooth[..., 2:, 1:-1] - smooth[..., :-2, 1:-1]).square()  # (B, 1, H, W)
    flat = change <= change.flatten(1).quantile(FLAT_SHARE, dim=1)[:, None, None, None]
    return 255 * torch.where(flat, detail.abs(), torch.nan).flatten(1).nanmedian(dim=1).values / 0.6745


def sharpen_strength(edited: Tensor, source: Tensor) -> Tensor:
    """(B,) natural logarithm of the gradient energy at full resolution over the source's."""
    return (_gradient(edited) / _gradient(source).clamp(min=1e-12)).clamp(min=1e-12).log()


def mean_lab(image: Tensor) -> Tensor:
    """(B, 3) mean colour of images (B, 3, H, W) in [0, 1], in CIE Lab."""
    from skimage.color import rgb2lab

    return torch.from_numpy(rgb2lab(image.cpu().numpy(), channel_axis=1)).mean(dim=(2, 3))


def rank_correlation(strengths: Tensor) -> Tensor:
    """(N,) Spearman's correlation of strengths (P, N), P >= 2 places of a slider in rising order, with those places.

    Two strengths that differ by no more than LEAST are tied, and share the rank between theirs: a slider that moves
    nothing scores 0, whatever rounding errors do.
    """
    apart = strengths.double()[:, None] - strengths.double()[None]  # (P, P, N)
    ranks = (apart > LEAST).double().sum(dim=1) + 0.5 * (apart.abs() <= LEAST).double().sum(dim=1)  # (P, N)
    places = torch.arange(len(strengths), dtype=torch.float64)[:, None].expand_as(ranks)
    return F.cosine_similarity(ranks - ranks.mean(dim=0), places - places.mean(dim=0), dim=0)


STRENGTHS = {"blur": blur_strength, "grain": grain_strength, "sharpen": sharpen_strength}


def _gradient(image: Tensor) -> Tensor:
    """(B,) mean squared difference of neighbours, both directions, all channels."""
    down = (image[..., 1:, :] - image[..., :-1, :]).square().mean(dim=(1, 2, 3))
    return down + (image[..., :, 1:] - image[..., :, :-1]).square().mean(dim=(1, 2, 3))


def _gaussian(image: Tensor, sigma: float) -> Tensor:
    from scipy.ndimage import gaussian_filter

    axes = {"axes": (2, 3), "radius": round(3 * sigma), "mode": "mirror"}
    return torch.from_numpy(gaussian_filter(image.cpu().numpy(), sigma, **axes))
