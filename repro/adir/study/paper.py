"""Paper scale: guided-diffusion's unconditional network, CLIP, and adaptation of latent networks (Stable Diffusion).

Nothing is downloaded here. `256x256_diffusion_uncond.pt` comes from openai/guided-diffusion, Stable Diffusion's
upscaler and inpainting pipelines from `from_pretrained` of diffusers ("stabilityai/stable-diffusion-x4-upscaler").
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro import paths
from repro.adir.adapt import Adaptation, AdaptStep, drawn, train
from repro.adir.guidance import Separable
from repro.adir.pipeline import Embedding
from repro.data.files import cut
from repro.data.images import to_model
from repro.errors import ReproError

ADM: dict[str, Any] = paths.read_toml(paths.room_file("adir", "settings.toml"))["guided-diffusion"]
_RESNET = ADM.pop("resnet")  # diffusers' names of the parts of a block -> guided-diffusion's


def build(config: Mapping[str, Any] = ADM) -> nn.Module:
    """guided-diffusion's 256 x 256 unconditional network as a diffusers `UNet2DModel`: 552,814,086 parameters."""
    from diffusers import UNet2DModel

    return UNet2DModel(**config)


def blocks(config: Mapping[str, Any] = ADM) -> list[str]:
    """The residual and attention blocks of the `UNet2DModel`, in the order in which an image runs through them."""
    layers, last, found = config["layers_per_block"], len(config["block_out_channels"]) - 1, []
    for side, per_level, change in (("down", layers, "downsamplers"), ("up", layers + 1, "upsamplers")):
        for i, kind in enumerate(config[f"{side}_block_types"]):
            parts = ("resnets", "attentions") if "Attn" in kind else ("resnets",)
            found += [f"{side}_blocks.{i}.{part}.{j}" for j in range(per_level) for part in parts]
            found += [f"{side}_blocks.{i}.{change}.0"] if i < last else []
        found += ["mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"] if side == "down" else []
    return found


def converted(state: Mapping[str, Tensor], config: Mapping[str, Any] = ADM) -> dict[str, Tensor]:
    """guided-diffusion's weights under the names of `build(config)`, block by block in the order of both networks. Its
    attention keeps query, key and value of each head together (the "legacy" order), diffusers' each in one matrix."""
    plain = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    plain |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    ends = (".in_layers.0.bias", ".qkv.bias")
    theirs = [key.removesuffix(end) for end in ends for key in state if key.endswith(end)]
    theirs.sort(key=lambda name: [int(part) if part.isdigit() else part for part in name.split(".")])
    ours, out = blocks(config), {}
    if len(ours) != len(theirs):
        raise ReproError(f"guided-diffusion's network of that size has {len(ours)} blocks: {len(theirs)} were found")
    for name, block in zip(ours, theirs, strict=True):
        if "attentions" not in name:
            plain |= {f"{name}.{a}": f"{block}.{b}" for a, b in _RESNET.items() if f"{block}.{b}.weight" in state}
            continue
        plain[f"{name}.group_norm"] = f"{block}.norm"
        for part, width in (("weight", 2), ("bias", 1)):
            qkv, proj = (state[f"{block}.{layer}.{part}"].flatten(width - 1) for layer in ("qkv", "proj_out"))
            heads = qkv.view(-1, 3, config["attention_head_dim"], *qkv.shape[1:])
            out |= {f"{name}.to_{letter}.{part}": heads[:, i].flatten(0, 1) for i, letter in enumerate("qkv")}
            out[f"{name}.to_out.0.{part}"] = proj
    return out | {f"{a}.{p}": state[f"{b}.{p}"] for a, b in plain.items() for p in ("weight", "bias")}


def from_file(path: Path, config: Mapping[str, Any] = ADM) -> nn.Module:
    """The network with the weights of a file of guided-diffusion, read without unpickling code."""
    network = build(config)
    network.load_state_dict(converted(torch.load(path, map_location="cpu", weights_only=True), config))
    return network.eval().requires_grad_(False)


def clip(name: str = "ViT-B-32", pretrained: str | None = "openai", model: Any = None) -> tuple[Embedding, Embedding]:
    """CLIP's encoders of images (B, 3, H, W) in [0, 1], an `Embedding`, and of prompts, to (B, d), by the optional
    package open_clip_torch, which downloads the weights unless a `model` is given."""
    import open_clip

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


def adapt_latent(
    pipe: Any, images: Sequence[Tensor], embeddings: Tensor, settings: Adaptation, crop: int,
    operator: Separable | None = None, empty: Tensor | None = None, noise_level: int = 20, seed: int = 0,
) -> Iterator[AdaptStep]:  # fmt: skip
    """Adapt the U-Net of a diffusers pipeline to images (3, H, W) in [0, 1], as `repro.adir.adapt.train` does.

    With an `operator` the pipeline is `StableDiffusionUpscalePipeline`, conditioned on A of each crop with noise of
    `noise_level` (ADIR, 4.1); without, `StableDiffusionInpaintPipeline`, conditioned on masks of random squares and on
    the masked crops (4.4). The prompt's `embeddings` (1, n, d) give way to the `empty` prompt's one time in ten.
    """
    scheduler = pipe.scheduler
    encode = lambda x: pipe.vae.encode(x).latent_dist.mean * pipe.vae.config.scaling_factor  # noqa: E731

    def loss_of(unet: Callable[..., Any], i: int) -> tuple[Tensor, Tensor]:
        noise, extra = drawn("adir/latent", settings.batch, i, seed), {}
        chosen = [images[k] for k in noise("image").integers(0, len(images)).tolist()]
        x = to_model(cut(chosen, crop, noise("crop").uniform((3,))))  # (B, 3, crop, crop)
        t = noise("t").integers(0, scheduler.config.num_train_timesteps)[:1].expand(len(x))
        with torch.no_grad():
            latent = encode(x)
            eps = noise("eps").normal(tuple(latent.shape[1:]))
            if operator is not None:
                low, level = operator.A(x), torch.full((len(x),), noise_level)
                given = [pipe.low_res_scheduler.add_noise(low, noise("low").normal(tuple(low.shape[1:])), level)]
                extra = {"class_labels": level}
            else:
                missing = (noise("mask").uniform((1, 4, 4)) < 0.5).float()
                mask = F.interpolate(missing, size=(crop, crop))  # (B, 1, crop, crop), 1 where the image is missing
                given = [F.interpolate(mask, size=latent.shape[2:]), encode(x * (1 - mask))]
        dropped = empty is not None and float(noise("drop").uniform()[0]) < 0.1
        prompt = (empty if dropped else embeddings).expand(len(x), -1, -1)
        noisy = torch.cat([scheduler.add_noise(latent, eps, t), *given], dim=1)
        output = unet(noisy, t, encoder_hidden_states=prompt, **extra).sample
        velocity = scheduler.config.prediction_type == "v_prediction"
        target = scheduler.get_velocity(latent, eps, t) if velocity else eps
        return (output - target).square().mean(), output.new_zeros(())

    return train(pipe.unet, loss_of, settings, seed)
