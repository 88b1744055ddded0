"""The vision tower: BEiT v2 (Peng et al., arXiv 2208.06366) as X²-VLM uses it."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lookalike.errors import BadInput
from lookalike.learn.models.x2vlm.attention import attend, run
from lookalike.learn.models.x2vlm.config import X2VLMConfig

EPS = 1e-6


class VisionTower(nn.Module):
    """Pictures -> tokens; the first is the mean of the patches, not the class token."""

    def __init__(self, config: X2VLMConfig) -> None:
        super().__init__()
        self.config = config
        width = config.vision_width
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, config.patch, config.patch)})
        index = relative_index(config.grid)
        rates = torch.linspace(0, config.drop_path, config.vision_depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(config, index, depth, rate) for depth, rate in enumerate(rates, 1))
        self.fc_norm = nn.LayerNorm(width, EPS)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, R, R) -> (B, 1 + N, D), N = (R / patch)²; BadInput for another R than the config's."""
        side = self.config.resolution
        if pixels.ndim != 4 or pixels.shape[1:] != (3, side, side):
            raise BadInput(
                f"pixels of the shape {tuple(pixels.shape)} for a model of (B, 3, {side}, {side})",
                "load_checkpoint(path, resolution=…) fits a model to another resolution",
            )
        patches: Tensor = self.patch_embed["proj"](pixels)
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        for block in self.blocks:
            tokens = run(block, tokens, recompute=self.config.recompute)
        patches = self.fc_norm(tokens[:, 1:])
        return torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)


class Block(nn.Module):
    """A pre-norm layer whose two branches are scaled by gamma_1 and gamma_2."""

    def __init__(self, config: X2VLMConfig, index: Tensor, depth: int, drop_path: float) -> None:
        super().__init__()
        width = config.vision_width
        self.drop_path = drop_path
        self.gamma_1 = nn.Parameter(torch.full((width,), 0.1))
        self.gamma_2 = nn.Parameter(torch.full((width,), 0.1))
        self.norm1 = nn.LayerNorm(width, EPS)
        self.attn = SelfAttention(width, config.vision_heads, config.grid, index)
        self.norm2 = nn.LayerNorm(width, EPS)
        fc1, fc2 = nn.Linear(width, config.vision_hidden), nn.Linear(config.vision_hidden, width)
        self.mlp = nn.ModuleDict({"fc1": fc1, "fc2": fc2})
        for linear in (self.attn.qkv, self.attn.proj, fc1, fc2):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        with torch.no_grad():  # the deeper, the smaller, as BEiT starts
            self.attn.proj.weight.div_((2 * depth) ** 0.5)
            fc2.weight.div_((2 * depth) ** 0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        tokens = tokens + self._kept(self.gamma_1 * self.attn(self.norm1(tokens)))
        hidden = F.gelu(self.mlp["fc1"](self.norm2(tokens)))
        return tokens + self._kept(self.gamma_2 * self.mlp["fc2"](hidden))

    def _kept(self, branch: Tensor) -> Tensor:
        """In training each picture's branch is left out at the layer's rate."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * (branch.new_empty(len(branch), 1, 1).bernoulli_(keep) / keep)


class SelfAttention(nn.Module):
    """Attention with a learnt bias for each offset between two patches."""

    def __init__(self, width: int, heads: int, grid: int, index: Tensor) -> None:
        super().__init__()
        self.heads = heads
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * grid - 1) ** 2 + 3, heads))
        self.register_buffer("relative_position_index", index)
        self.relative_position_index: Tensor
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        shift = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])  # keys have none
        query, key, value = F.linear(tokens, self.qkv.weight, shift).chunk(3, dim=-1)
        mixed: Tensor = self.proj(attend(query, key, value, self.heads, self.bias()))
        return mixed

    def bias(self) -> Tensor:
        """What is added to the scores, (1, heads, T, T)."""
        index = self.relative_position_index
        by_head = self.relative_position_bias_table.t()
        return by_head.index_select(1, index.flatten()).view(1, self.heads, *index.shape)


def relative_index(grid: int) -> Tensor:
    """Which row of the table serves which pair of tokens (query, key), (1 + grid²,) * 2.

    Offsets between patches come first, row-major by (down, across); the last three rows are for class token
    to anything, anything to class token, and class token to itself.
    """
    down, across = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    place = down.flatten() * (2 * grid - 1) + across.flatten()
    middle = (grid - 1) * 2 * grid  # of the offset (0, 0)
    rows = (2 * grid - 1) ** 2 + 3
    index = torch.empty(1 + grid**2, 1 + grid**2, dtype=torch.int64)
    index[1:, 1:] = place[:, None] - place[None, :] + middle
    index[0, :] = rows - 3
    index[:, 0] = rows - 2
    index[0, 0] = rows - 1
    return index
