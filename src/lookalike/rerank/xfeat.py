"""XFeat's local features in torch: points that are easy to find again, and what is around them.

The network of Potje et al. ("XFeat: Accelerated Features for Lightweight Image Matching", CVPR 2024, section
3), its sparse mode on one scale. Importing this module loads torch.
"""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lookalike.values import Floats, Pixels

_CELL = 8  # pixels: the network tells for each cell where in it a point is, if anywhere
_GRAIN = 32  # pixels: the coarsest map's step, of which both sides become multiples
_LEAST = 0.05  # probability of a point; the paper's detection threshold


class XFeat:
    """The network with its weights. Safe to call from several threads."""

    def __init__(self, weights: Path) -> None:
        kept = torch.load(weights, map_location="cpu", weights_only=True)
        # The refinement of dense matches is no part of the sparse mode.
        kept = {key: value for key, value in kept.items() if not key.startswith("fine_matcher.")}
        self._network = _Network()
        self._network.load_state_dict(kept, strict=True)
        self._network.eval()
        self._turn = threading.Lock()  # one pass at a time: torch spreads each over the cores itself

    def detect(self, pixels: Pixels, most: int) -> tuple[Floats, Floats]:
        """RGB (H, W, 3) -> points (K, 2) as x, y in its pixels, and descriptors (K, 64) of unit length.

        The `most` surest points at most, surest first; K is 0 where there is nothing to hold on to.
        """
        height, width = pixels.shape[:2]
        grey = torch.from_numpy(pixels.copy()).float().mean(dim=2)[None, None] / 255
        with self._turn, torch.inference_mode():
            size = [max(side // _GRAIN, 1) * _GRAIN for side in (height, width)]
            grey = functional.interpolate(grey, size, mode="bilinear", align_corners=False)
            described, places, reliable = self._network(grey)
            places = places.softmax(dim=1)[:, :-1]  # the last says "nowhere"
            places = functional.pixel_shuffle(places, _CELL)  # (1, 1, H, W)
            points = _peaks(places)
            sure = _sampled(places, points, size, "nearest") * _sampled(reliable, points, size, "bilinear")
            surest = (-sure[:, 0]).argsort(stable=True)[:most]
            surest = surest[sure[surest, 0] > 0]
            points = points[surest]
            found = _sampled(functional.normalize(described, dim=1), points, size, "bicubic")
            found = functional.normalize(found, dim=1)
            scaled = points * torch.tensor([width / size[1], height / size[0]])
        return scaled.numpy(), found.numpy()


def _peaks(places: Tensor) -> Tensor:
    """Pixels that are the most probable of the 5 x 5 around them: (1, 1, H, W) -> (K, 2) as x, y."""
    around = functional.max_pool2d(places, kernel_size=5, stride=1, padding=2)
    return ((places == around) & (places > _LEAST))[0, 0].nonzero().flip(1).float()


def _sampled(values: Tensor, points: Tensor, size: list[int], mode: str) -> Tensor:
    """Values (1, C, h, w) of a picture of `size` at points (K, 2) of it -> (K, C).

    Points are placed as the published code does, half a pixel off at the picture's edges: the weights were
    trained so.
    """
    height, width = size
    grid = 2 * points / torch.tensor([width - 1, height - 1]) - 1
    found = functional.grid_sample(values, grid[None, None], mode=mode, align_corners=False)
    return found[0, :, 0].T


class _Layer(nn.Module):
    """Convolution, normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
            nn.BatchNorm2d(outputs, affine=False),
            nn.ReLU(),
        )

    def forward(self, values: Tensor) -> Tensor:
        made: Tensor = self.layer(values)
        return made


class _Network(nn.Module):
    """Grey (1, 1, H, W), sides multiples of 32 -> maps at an eighth of that.

    Descriptors (1, 64, h, w), for each cell where in it a point is (1, 65, h, w) as logits, and how reliable
    it is (1, 1, h, w), 0 to 1. Attributes have the names of the published weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(1)
        self.skip1 = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 24, 1))
        self.block1 = nn.Sequential(
            _Layer(1, 4), _Layer(4, 8, stride=2), _Layer(8, 8), _Layer(8, 24, stride=2)
        )
        self.block2 = nn.Sequential(_Layer(24, 24), _Layer(24, 24))
        self.block3 = nn.Sequential(_Layer(24, 64, stride=2), _Layer(64, 64), _Layer(64, 64, size=1))
        self.block4 = nn.Sequential(_Layer(64, 64, stride=2), _Layer(64, 64), _Layer(64, 64))
        self.block5 = nn.Sequential(
            _Layer(64, 128, stride=2), _Layer(128, 128), _Layer(128, 128), _Layer(128, 64, size=1)
        )
        self.block_fusion = nn.Sequential(_Layer(64, 64), _Layer(64, 64), nn.Conv2d(64, 64, 1))
        self.heatmap_head = nn.Sequential(
            _Layer(64, 64, size=1), _Layer(64, 64, size=1), nn.Conv2d(64, 1, 1), nn.Sigmoid()
        )
        self.keypoint_head = nn.Sequential(
            *(_Layer(64, 64, size=1) for _ in range(3)), nn.Conv2d(64, _CELL**2 + 1, 1)
        )

    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grey = self.norm(grey)
        fine = self.block3(self.block2(self.block1(grey) + self.skip1(grey)))  # 1/8
        coarse = self.block4(fine)  # 1/16
        coarsest = self.block5(coarse)  # 1/32
        for smaller in (coarse, coarsest):
            fine = fine + functional.interpolate(smaller, fine.shape[2:], mode="bilinear")
        described = self.block_fusion(fine)
        cells = functional.pixel_unshuffle(grey, _CELL)
        return described, self.keypoint_head(cells), self.heatmap_head(described)
