"""Paper scale: guided-diffusion's unconditional network, CLIP, and adaptation of latent networks (Stable Diffusion).

Nothing is downloaded here. `256x256_diffusion_uncond.pt` comes from openai/guided-diffusion, Stable Diffusion's
upscaler and inpainting pipelines from `from_pretrained` of diffusers ("stabilityai/stable-diffusion-x4-upscaler").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.adir.adapt import Adaptation, AdaptStep, drawn, train
from repro.adir.operators import Separable
from repro.adir.retrieval import Embedding
from repro.data import crops
from repro.data.images import to_model
from repro.errors import ReproError

ADM: dict[str, Any] = {
    "sample_size": 256,
    "in_channels": 3,
    "out_channels": 6,
    "layers_per_block": 2,
    "block_out_channels": (256, 256, 512, 512, 1024, 1024),
    "down_block_types": ("ResnetDownsampleBlock2D",) * 3 + ("AttnDownBlock2D",) * 3,
    "up_block_types": ("AttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",) * 3,
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 32,  # else the middle attention would have no norm
    "attention_head_dim": 64,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def build(config: Mapping[str, Any] = ADM) -> nn.Module:
    """guided-diffusion's 256 x 256 unconditional network as a diffusers `UNet2DModel`: 552,814,086 parameters."""
    from diffusers import UNet2DModel

    return UNet2DModel(**config)


def modules(config: Mapping[str, Any] = ADM) -> dict[str, str]:
    """Residual and attention blocks: name in the `UNet2DModel` -> name in guided-diffusion's file."""
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])
    found = {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1"}
    found |= {"mid_block.resnets.1": "middle_block.2"}
    for side, per_level, change, at in (("down", layers, "downsamplers", 1), ("up", layers + 1, "upsamplers", 0)):
        for i, kind in enumerate(config[f"{side}_block_types"]):
            ours, theirs, attends = (
                f"{side}_blocks.{i}",
                "input_blocks" if side == "down" else "output_blocks",
                "Attn" in kind,
            )
            for j in range(per_level):
                found[f"{ours}.resnets.{j}"] = f"{theirs}.{at + j}.0"
                if attends:
                    found[f"{ours}.attentions.{j}"] = f"{theirs}.{at + j}.1"
            at += per_level
            if i < levels - 1:  # going down the change of size is a block of its own, going up the end of the last one
                block = f"{at}.0" if side == "down" else f"{at - 1}.{1 + attends}"
                found[f"{ours}.{change}.0"] = f"{theirs}.{block}"
                at += side == "down"
    return found


def converted(state: Mapping[str, Tensor], config: Mapping[str, Any] = ADM) -> dict[str, Tensor]:
    """guided-diffusion's weights under the names of `build(config)`.

    Its attention keeps query, key and value of each head together (the "legacy" order), diffusers' each in one matrix.
    """
    plain = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    plain |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    out: dict[str, Tensor] = {}
    try:
        for ours, theirs in modules(config).items():
            if "attentions" not in ours:
                plain |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in _RESNET.items() if f"{theirs}.{b}.weight" in state}
                continue
            plain[f"{ours}.group_norm"] = f"{theirs}.norm"
            for part, width in (("weight", 2), ("bias", 1)):
                qkv, proj = (state[f"{theirs}.{name}.{part}"].flatten(width - 1) for name in ("qkv", "proj_out"))
                heads = qkv.view(-1, 3, config["attention_head_dim"], *qkv.shape[1:])
                out |= {f"{ours}.to_{name}.{part}": heads[:, i].flatten(0, 1) for i, name in enumerate("qkv")}
                out[f"{ours}.to_out.0.{part}"] = proj
        return out | {f"{a}.{p}": state[f"{b}.{p}"] for a, b in plain.items() for p in ("weight", "bias")}
    except KeyError as error:
        raise ReproError(f"this is not guided-diffusion's network of that size: it lacks {error}") from None


def from_file(path: Path, config: Mapping[str, Any] = ADM) -> nn.Module:
    """The network with the weights of a file of guided-diffusion, read without unpickling code."""
    network = build(config)
    network.load_state_dict(converted(torch.load(path, map_location="cpu", weights_only=True), config))
    return network.eval().requires_grad_(False)


# -- retrieval by CLIP -------------------------------------------------------------------------------------------------


def clip(name: str = "ViT-B-32", pretrained: str | None = "openai", model: Any = None) -> tuple[Embedding, Embedding]:
    """CLIP's encoders of images (B, 3, H, W) in [0, 1], as `repro.adir.retrieval` takes it, and of prompts, to (B, d).

    By the optional package open_clip_torch, which downloads the weights unless a `model` is given.
    """
    try:
        import open_clip
    except ImportError as error:
        raise ReproError(
            "CLIP needs the optional package open_clip_torch: `pip install -e .[paper]` brings it"
        ) from error
    model = (model or open_clip.create_model(name, pretrained=pretrained)).eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))

    @torch.no_grad()
    def image(images: Tensor) -> Tensor:
        side = model.visual.image_size
        small = F.interpolate(images, size=side, mode="bicubic", antialias=True).clamp(0, 1)
        return model.encode_image((small - mean) / std).float()

    @torch.no_grad()
    def text(prompts: Sequence[str]) -> Tensor:
        return model.encode_text(open_clip.get_tokenizer(name)(list(prompts))).float()

    image.__name__ = f"clip-{name}-{pretrained}"  # the name under which vectors are cached
    return image, text


# -- latent networks ---------------------------------------------------------------------------------------------------


def adapt_latent(
    pipe: Any,
    images: Sequence[Tensor],
    embeddings: Tensor,
    settings: Adaptation,
    crop: int,
    operator: Separable | None = None,
    empty: Tensor | None = None,
    noise_level: int = 20,
    seed: int = 0,
) -> Iterator[AdaptStep]:
    """Adapt the U-Net of a diffusers pipeline to images (3, H, W) in [0, 1], as `repro.adir.adapt.train` does.

    With an `operator` the pipeline is `StableDiffusionUpscalePipeline`, conditioned on A of each crop with noise of
    `noise_level` (ADIR, 4.1); without, `StableDiffusionInpaintPipeline`, conditioned on random masks and the masked
    crops (4.4). The prompt's `embeddings` (1, n, d) give way to the `empty` prompt's one time in ten.
    """
    scheduler, factor = pipe.scheduler, pipe.vae.config.scaling_factor

    def loss_of(unet: Callable[..., Any], i: int) -> tuple[Tensor, Tensor]:
        noise = drawn(("image", "crop", "eps", "t", "low", "mask"), "adir/latent", settings.batch, i, seed)
        chosen = [images[k] for k in noise["image"].integers(0, len(images)).tolist()]
        x = to_model(crops.cut(chosen, crop, noise["crop"].uniform((3,))))  # (B, 3, crop, crop)
        t = noise["t"].integers(0, scheduler.config.num_train_timesteps)[:1].expand(len(x))
        labels = {}
        with torch.no_grad():
            latent = pipe.vae.encode(x).latent_dist.mean * factor
            eps = noise["eps"].normal(tuple(latent.shape[1:]))
            if operator is not None:
                low, level = operator.A(x), torch.full((len(x),), noise_level)
                given = [pipe.low_res_scheduler.add_noise(low, noise["low"].normal(tuple(low.shape[1:])), level)]
                labels = {"class_labels": level}
            else:
                mask = _boxes(noise["mask"].uniform((4,)), crop)  # (B, 1, crop, crop), 1 where the image is missing
                kept = pipe.vae.encode(x * (1 - mask)).latent_dist.mean * factor
                given = [F.interpolate(mask, size=latent.shape[2:]), kept]
        dropped = empty is not None and float(noise["mask"].uniform((5,))[0, 4]) < 0.1
        prompt = (empty if dropped else embeddings).expand(len(x), -1, -1)
        noisy = scheduler.add_noise(latent, eps, t)
        output = unet(torch.cat([noisy, *given], dim=1), t, encoder_hidden_states=prompt, **labels).sample
        velocity = scheduler.config.prediction_type == "v_prediction"
        target = scheduler.get_velocity(latent, eps, t) if velocity else eps
        return (output - target).square().mean(), output.new_zeros(())

    return train(pipe.unet, loss_of, settings, seed)


def _boxes(uniform: Tensor, side: int) -> Tensor:
    """(B, 4) numbers in [0, 1) -> (B, 1, side, side) masks of one box each, between a quarter and all of a side."""
    size = (0.25 + 0.75 * uniform[:, :2]) * side
    start = uniform[:, 2:] * (side - size)
    at = torch.arange(side).float()
    rows, columns = ((at >= start[:, i, None]) & (at < (start + size)[:, i, None]) for i in (0, 1))
    return (rows[:, :, None] & columns[:, None]).float()[:, None]
