"""Random affine and elastic distortions of digit images (Simard et al. 2003), batch by batch."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# The elastic field is a smooth random surface over a coarse grid of control points: as Simard's
# Gaussian-filtered noise, for a twelfth of the random numbers.
_CONTROL_POINTS = 8
_SMOOTHNESS = 4.0  # pixels; the width of the Gaussian bump at each control point


@dataclass(frozen=True)
class Distortion:
    """How far an image may be distorted.

    Attributes:
        rotation: largest angle, degrees.
        scale: largest change of size per axis, as a share.
        shear: largest horizontal shear, as a share of the height.
        shift: largest shift per axis, pixels.
        elastic: standard deviation of the elastic displacement per axis, pixels.
    """

    rotation: float
    scale: float
    shear: float
    shift: float
    elastic: float

    @property
    def is_none(self) -> bool:
        """Whether images stay as they are."""
        return self == self.scaled(0)

    def scaled(self, strength: float) -> "Distortion":
        """The same distortion, weaker: 0 is none, 1 is all of it."""
        return Distortion(
            self.rotation * strength,
            self.scale * strength,
            self.shear * strength,
            self.shift * strength,
            self.elastic * strength,
        )


def distort(images: Tensor, distortion: Distortion, generator: torch.Generator) -> Tensor:
    """Distorts each image its own way, with bilinear interpolation and black beyond the edges.

    Args:
        images: float32, (B, H, W), H = W.
        distortion: the bounds; affine parameters are uniform within them.
        generator: a CPU generator, so that every device draws the same distortions.

    Returns:
        float32, (B, H, W).
    """
    B, side, _ = images.shape
    grid = _affine_grid(B, side, distortion, generator).to(images.device)  # (B, H, W, 2)
    if distortion.elastic > 0:
        grid = grid + _elastic_field(B, side, distortion.elastic, generator).to(images.device)
    return nn.functional.grid_sample(
        images.unsqueeze(1), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    ).squeeze(1)


def _affine_grid(B: int, side: int, distortion: Distortion, generator: torch.Generator) -> Tensor:
    """Where each output pixel is read from, in grid_sample's units: the image spans -1 to 1."""
    u = torch.rand(B, 6, generator=generator) * 2 - 1
    angle = u[:, 0] * math.radians(distortion.rotation)
    scale_x = 1 + u[:, 1] * distortion.scale
    scale_y = 1 + u[:, 2] * distortion.scale
    shear = u[:, 3] * distortion.shear
    shift = u[:, 4:6] * (distortion.shift * 2 / side)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos / scale_x, (-sin + shear * cos) / scale_x, shift[:, 0]], dim=1),
        torch.stack([sin / scale_y, (cos + shear * sin) / scale_y, shift[:, 1]], dim=1),
    ]
    theta = torch.stack(rows, dim=1)  # (B, 2, 3)
    return nn.functional.affine_grid(theta, [B, 1, side, side], align_corners=False)


def _elastic_field(B: int, side: int, std: float, generator: torch.Generator) -> Tensor:
    """A smooth random displacement, (B, H, W, 2), of the given standard deviation in pixels."""
    basis = _smooth_basis(side)  # (K, side)
    K = basis.shape[0]
    noise = torch.randn(B * 2 * K, K, generator=generator)
    # The Gaussian is separable: one product along x, one along y. Flat products, since a batched
    # product of 28x28 matrices is ten times slower.
    along_x = (noise @ basis).view(B, 2, K, side).transpose(2, 3).reshape(-1, K)
    along_y = (along_x @ basis).view(B, 2, side, side)  # (B, axis, x, y)
    return along_y.permute(0, 3, 2, 1) * (std * 2 / side)


def _smooth_basis(side: int) -> Tensor:
    """Gaussian bumps at the control points, (K, side), scaled to a mean variance of 1."""
    positions = torch.arange(side, dtype=torch.float32)
    centres = torch.linspace(-2.0, side + 1.0, _CONTROL_POINTS)
    bumps = torch.exp(-((positions - centres[:, None]) ** 2) / (2 * _SMOOTHNESS**2))
    return bumps / bumps.square().sum(dim=0).mean().sqrt()
