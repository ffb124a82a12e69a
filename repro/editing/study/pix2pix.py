"""The pix2pix baseline: one pass of a generator from source, reference and vector to the edited image.

"Multi-task image-to-image diffusion models with fine-grained control" compares with "Image-to-Image Translation with
Conditional Adversarial Networks" (Isola et al., 2017), given the source, the colour reference and the editing vector
expanded to the image's size: 3 + 3 + 9 channels. Kept from the original: encoder-decoder of 4 x 4 convolutions of
stride 2 with skips, tanh, a conditional discriminator of patches of about 70 pixels, the logistic loss with the
discriminator's halved, and lambda = 100 for l1. What differs:

- Images enter and leave as 2 x 2 patches of pixels: full size would cost four times as much.
- The outermost skip is not rectified, so that what should stay as it is has a linear way through.
- GroupNorm for BatchNorm, whose running statistics do not belong to the averaged weights that are evaluated. Not
  InstanceNorm, which wipes out what is constant over an image: the vector, the reference's mean colour.
- No dropout: it draws from torch's global generator. One backward pass: each loss reaches its own network only.
"""

import itertools
from collections import OrderedDict
from collections.abc import Mapping

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from repro.editing.model import COLOUR, COUNT, only, single_edit
from repro.editing.vector import LENGTH
from repro.engine.rng import Noises

PATCH = 2
L1_WEIGHT = 100.0  # lambda of Isola et al., section 3.3
GROUPS = 8
CONDITION = 6 * PATCH**2 + LENGTH  # channels of source, reference and vector


def condition(source: Tensor, reference: Tensor, vector: Tensor) -> Tensor:
    """Images (B, 3, H, W) as patches, with the vector (B, 9) beside each: (B, 33, H/2, W/2)."""
    stack = F.pixel_unshuffle(torch.cat([source, reference], dim=1), PATCH)
    return torch.cat([stack, vector.to(stack)[:, :, None, None].expand(-1, -1, *stack.shape[2:])], dim=1)


def _normed(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.GroupNorm(GROUPS, channels)))


class Pix2PixGenerator(ModelMixin, ConfigMixin):
    """(source, reference, vector) -> the edited image.

    `widths`: channels at the size of the patches and after every halving; multiples of 8. Four halvings bring a
    64-pixel crop to 2 x 2: every pixel depends on the whole crop and reference.
    """

    @register_to_config
    def __init__(self, widths: tuple[int, ...] = (24, 40, 56, 56, 56)) -> None:
        super().__init__()
        steps = list(itertools.pairwise(widths))
        self.conv_in = nn.Conv2d(CONDITION, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_normed(nn.Conv2d(a, b, 4, stride=2, padding=1), b) for a, b in steps)
        self.up = nn.ModuleList()
        for level, (a, b) in reversed(list(enumerate(steps))):
            c_in = b if level == len(steps) - 1 else 2 * b
            self.up.append(_normed(nn.ConvTranspose2d(c_in, a, 4, stride=2, padding=1), a))
        self.conv_out = nn.Conv2d(2 * widths[0], 3 * PATCH**2, 3, padding=1)

    @property
    def factor(self) -> int:
        """What height and width must be multiples of."""
        return PATCH * 2 ** len(self.down)

    def forward(self, source: Tensor, reference: Tensor, vector: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] of images (B, 3, H, W) in [-1, 1], the reference zero where colour is off.

        `vector` (B, 9). H and W are multiples of `factor`.
        """
        return F.pixel_shuffle(self.patches(condition(source, reference, vector)), PATCH)

    def patches(self, stack: Tensor) -> Tensor:
        """The output as patches (B, 12, H/2, W/2), float32, from what `condition` makes."""
        h = self.conv_in(stack)
        skips = [h]
        for down in self.down:
            h = down(F.leaky_relu(h, 0.2))
            skips.append(F.relu(h))
        h = skips.pop()
        for up in self.up:
            h = torch.cat([F.relu(up(h)), skips.pop()], dim=1)
        return self.conv_out(h).float().tanh()


class Discriminator(nn.Module):
    """Logits of (condition, image), one for every patch of 68 pixels a side (the original's: 70).

    The first layer is one convolution of both, written as a sum: real and generated images share the condition's.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.condition = nn.Conv2d(CONDITION, width, 4, stride=2, padding=1)
        self.picture = nn.Conv2d(3 * PATCH**2, width, 4, stride=2, padding=1, bias=False)
        layers: list[nn.Module] = []
        for c_in, stride in ((width, 2), (2 * width, 1)):
            conv = nn.Conv2d(c_in, 2 * width, 4, stride, padding=1)
            layers += [nn.LeakyReLU(0.2), conv, nn.GroupNorm(GROUPS, 2 * width)]
        self.rest = nn.Sequential(*layers, nn.LeakyReLU(0.2), nn.Conv2d(2 * width, 1, 4, padding=1))

    def forward(self, stack: Tensor, *images: Tensor) -> Tensor:
        """(k B, 1, h, w) of a condition (B, 33, H/2, W/2) and k batches of images as patches (B, 12, H/2, W/2)."""
        h = self.condition(stack)
        return self.rest(torch.cat([h + self.picture(each) for each in images]))


class Pix2Pix(ModelMixin, ConfigMixin):
    """Generator (of these `widths`) and discriminator in training.

    `critic`: channels of the discriminator's first layer; doubled once; a multiple of 4.
    """

    @register_to_config
    def __init__(self, widths: tuple[int, ...] = (24, 40, 56, 56, 56), critic: int = 32) -> None:
        super().__init__()
        self.generator = Pix2PixGenerator(widths=tuple(widths))
        self.discriminator = Discriminator(critic)

    def shipped(self) -> Pix2PixGenerator:
        """What a checkpoint keeps."""
        return self.generator

    def forward(self, source: Tensor, reference: Tensor, vector: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of generator and discriminator, (B,) each; the gradient of either is zero in the other's weights.

        Images (B, 3, H, W) in [-1, 1]. One call for both: joint training wraps what is called.
        """

        def logistic(logits: Tensor, sign: float) -> Tensor:
            """(B,) mean over the patches of the loss of calling them real (-1) or generated (1), in float32."""
            return F.softplus(logits.float() * sign).mean(dim=(1, 2, 3))

        stack = condition(source, reference, vector)
        real = F.pixel_unshuffle(target, PATCH)
        fake = self.generator.patches(stack)
        l1 = (fake - real).abs().mean(dim=(1, 2, 3))
        fixed = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        adversarial = logistic(functional_call(self.discriminator, fixed, (stack, fake)), -1.0)
        of_real, of_fake = self.discriminator(stack, real, fake.detach()).chunk(2)
        return adversarial + L1_WEIGHT * l1, 0.5 * (logistic(of_real, -1.0) + logistic(of_fake, 1.0))


class Pix2PixTask:
    """Single edits of crops (`benchmark.pixels`), one of six labels a visit; what belongs to the others is zero."""

    def __init__(self, held: Mapping[str, Tensor]) -> None:
        self.held, self.ids = held, [f"crop {i}" for i in range(len(held["sharp"]))]
        self.settings = {"l1": L1_WEIGHT, "labels": "uniform"}

    def inputs(self, indices: Tensor, noise: Noises) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(source, reference, vector, target): images (B, 3, S, S) in [-1, 1], vectors (B, 9)."""
        drawn = noise("label").integers(0, COUNT)
        label, vectors = drawn.cpu(), self.held["vector"][indices]
        images = (*single_edit(self.held, indices, label), self.held["reference"][indices])
        source, target, reference = ((image.float() / 127.5 - 1).to(drawn.device) for image in images)
        colour = (drawn == COLOUR)[:, None, None, None]
        return source, reference * colour, only(vectors, label).to(drawn.device), target

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        return sum(model(*self.inputs(indices, noise)))
