"""X²-VLM: two towers, their fusion, and the heads on top."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lookalike.errors import BadInput, WeightsError
from lookalike.learn.models.x2vlm.config import HEADS, X2VLMConfig
from lookalike.learn.models.x2vlm.text import TextEncoder
from lookalike.learn.models.x2vlm.vision import VisionTower


class X2VLM(nn.Module):
    """The authors' model. B pictures or texts, N patches, L words, Dv and Dt the towers' widths.

    Parameters carry the names of the official pre-training checkpoints. Made by hand it starts from random
    weights. A head that is not in `config.heads` is None, and asking for it is a WeightsError.
    """

    def __init__(self, config: X2VLMConfig) -> None:
        super().__init__()
        self.config = config
        self.temp = nn.Parameter(torch.tensor(0.07)) if "temp" in config.heads else None
        self.vision_encoder = VisionTower(config)
        self.text_encoder = TextEncoder(config)
        self.vision_proj = self._head("vision_proj", config.vision_width, config.embedding)
        self.text_proj = self._head("text_proj", config.text_width, config.embedding)
        self.itm_head = self._deep_head("itm_head", 2)
        self.bbox_head = self._deep_head("bbox_head", 4)
        self.absolute_frame_pos_embed = None
        if config.frames:
            self.absolute_frame_pos_embed = nn.Parameter(
                torch.empty(1, config.frames, 1, config.vision_width)
            )
            nn.init.trunc_normal_(self.absolute_frame_pos_embed, std=0.02)

    def with_heads(self, heads: Iterable[str], recompute: bool = False) -> X2VLM:
        """A copy that has these heads too; those that were not there start from random weights."""
        wanted = {*self.config.heads, *heads}
        known = tuple(head for head in HEADS if head in wanted)
        config = replace(self.config, heads=known, recompute=recompute)
        made = X2VLM(config)
        made.load_state_dict(self.state_dict(), strict=False)
        return made

    def vision(self, pixels: Tensor) -> Tensor:
        """Pictures (B, 3, R, R) -> tokens (B, 1 + N, Dv): the mean of the patches, then the patches."""
        tokens: Tensor = self.vision_encoder(pixels)
        return tokens

    def video(self, frames: Tensor) -> Tensor:
        """Videos (B, F, 3, R, R) -> tokens (B, 1 + N, Dv): the mean over frames that know their place.

        BadInput where F is more than the model has places for; a model without places takes any F.
        """
        tokens = self.vision(frames.flatten(0, 1))
        tokens = tokens.view(*frames.shape[:2], *tokens.shape[1:])
        if self.absolute_frame_pos_embed is not None:
            if frames.shape[1] > self.config.frames:
                raise BadInput(f"videos of {frames.shape[1]} frames for a model of {self.config.frames}")
            tokens = tokens + self.absolute_frame_pos_embed[:, : frames.shape[1]]
        return tokens.mean(dim=1)

    def text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Words (B, L) and their mask (1 word, 0 padding) -> states (B, L, Dt); the first speaks for all."""
        return self.text_encoder.bert.read(ids, mask)

    def fuse(
        self,
        text_states: Tensor,
        text_mask: Tensor,
        image_tokens: Tensor | None,
        image_mask: Tensor | None = None,
        first_only: bool = False,
    ) -> Tensor:
        """States (B, L, Dt) that have seen the tokens (B, T, Dv) -> (B, L, Dt); the first is f₀.

        `image_mask` (B, T), 1 seen, 0 hidden, None all seen. Without image tokens the words pass the fusion's
        layers alone. `first_only` gives f₀ alone, (B, 1, Dt): what the last layer does for the other words
        is not computed.
        """
        return self.text_encoder.bert.fuse(text_states, text_mask, image_tokens, image_mask, first_only)

    def region_tokens(
        self, image_tokens: Tensor, image_index: Tensor, region_mask: Tensor | None = None
    ) -> Tensor:
        """Tokens of pictures (B, 1 + N, Dv) -> of regions (M, 1 + N, Dv): no second pass through the tower.

        Region m lies in picture `image_index[m]`; its first token is the mean of its patches, where
        `region_mask` (M, 1 + N) is 1 (the first column is not read). The patches stay as they are: pass the
        same mask to `fuse`. A region without patches has a first token of zeros. Without a mask the pictures'
        tokens are repeated.
        """
        tokens = image_tokens[image_index]
        if region_mask is None:
            return tokens
        inside = region_mask[:, 1:, None].to(tokens.dtype)
        mean = (tokens[:, 1:] * inside).sum(dim=1, keepdim=True) / inside.sum(dim=1, keepdim=True).clamp(
            min=1
        )
        return torch.cat([mean, tokens[:, 1:]], dim=1)

    def image_embedding(self, tokens: Tensor) -> Tensor:
        """Tokens (B, 1 + N, Dv) -> what ITC compares, (B, E), unit length."""
        return _unit(self._present("vision_proj")(tokens[:, 0]))

    def text_embedding(self, states: Tensor) -> Tensor:
        """States (B, L, Dt) -> what ITC compares, (B, E), unit length."""
        return _unit(self._present("text_proj")(states[:, 0]))

    def match_logits(self, f0: Tensor) -> Tensor:
        """f₀ (B, Dt) -> (B, 2): picture and text do not belong together, or do."""
        logits: Tensor = self._present("itm_head")(f0)
        return logits

    def boxes(self, f0: Tensor) -> Tensor:
        """f₀ (B, Dt) of all image tokens -> (B, 4): centre x, centre y, width, height; 0 to 1."""
        return torch.sigmoid(self._present("bbox_head")(f0))

    def masked_words(self, states: Tensor, positions: Tensor | None = None) -> Tensor:
        """Fused states (B, L, Dt) -> scores of all words (B, L, V), or at `positions` (B, P) -> (B, P, V)."""
        head = self.text_encoder.cls
        if head is None:
            raise _lacking("text_encoder.cls")
        if positions is not None:
            states = states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))
        scores: Tensor = head(states)
        return scores

    def _head(self, name: str, width: int, out: int) -> nn.Linear | None:
        return nn.Linear(width, out) if name in self.config.heads else None

    def _deep_head(self, name: str, out: int) -> nn.Sequential | None:
        width = self.config.text_width
        if name not in self.config.heads:
            return None
        return nn.Sequential(
            nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, out)
        )

    def _present(self, name: str) -> nn.Module:
        head = getattr(self, name)
        if head is None:
            raise _lacking(name)
        assert isinstance(head, nn.Module)
        return head


def region_mask(corners: Tensor, grid: int, patch: int) -> Tensor:
    """Boxes (M, 4) as x0, y0, x1, y1 -> 1 where a token shows them, else 0, (M, 1 + grid²) int64.

    They are in pixels of the model's square. Every patch that a box touches counts, at least one. The first
    column, the whole picture's, is 1.
    """
    cells = corners.double() / patch
    first = cells[:, :2].floor().clamp(0, grid - 1)
    last = torch.maximum(cells[:, 2:].ceil().clamp(max=grid), first + 1)  # exclusive
    place = torch.arange(grid, dtype=torch.float64, device=corners.device)
    inside = (place >= first[..., None]) & (place < last[..., None])  # (M, 2, grid): across, down
    patches = (inside[:, 1, :, None] & inside[:, 0, None, :]).flatten(1).long()
    return torch.cat([patches.new_ones(len(patches), 1), patches], dim=1)


def _unit(vectors: Tensor) -> Tensor:
    """To length 1; what comes in half precision leaves in full."""
    return F.normalize(vectors.float() if vectors.dtype.itemsize < 4 else vectors, dim=-1)


def _lacking(head: str) -> WeightsError:
    return WeightsError(f"this X²-VLM has no {head}", "load a checkpoint that holds it, or train one")
