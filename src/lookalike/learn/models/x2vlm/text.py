"""The text tower and the fusion: one BERT whose later layers also look at the picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lookalike.errors import BadInput
from lookalike.learn.models.x2vlm.attention import attend, attend_once, hiding, run
from lookalike.learn.models.x2vlm.config import X2VLMConfig

EPS = 1e-12
PADDING_DEPTH, PICTURE_DEPTH = 1e4, 1e9  # how far hidden words and hidden patches are pushed down


class TextEncoder(nn.Module):
    """BERT under the names of the pre-training checkpoints: `bert`, and `cls` where words are predicted."""

    def __init__(self, config: X2VLMConfig) -> None:
        super().__init__()
        self.bert = Bert(config)
        self.cls = MaskedWords(config) if "text_encoder.cls" in config.heads else None
        self.apply(_start)
        self.tie()

    def tie(self) -> None:
        """Make the prediction of words use the table that reads them: one tensor under two names."""
        if self.cls is not None:
            predictions = self.cls.predictions
            predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight
            predictions.decoder.bias = predictions.bias


class Bert(nn.Module):
    def __init__(self, config: X2VLMConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        layers = nn.ModuleList(
            Layer(config, fuses=place >= config.text_layers)
            for place in range(config.text_layers + config.fusion_layers)
        )
        self.encoder = nn.ModuleDict({"layer": layers})

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Words (B, L) -> states (B, L, D)."""
        states: Tensor = self.embeddings(ids)
        for layer in self._layers()[: self.config.text_layers]:
            states = run(layer, states, mask, recompute=self.config.recompute)
        return states

    def fuse(
        self,
        states: Tensor,
        mask: Tensor,
        image_tokens: Tensor | None,
        image_mask: Tensor | None,
        first_only: bool = False,
    ) -> Tensor:
        """States (B, L, D) and tokens (B, T, Dv) -> states (B, L, D), or (B, 1, D) with `first_only`."""
        layers = self._layers()[self.config.text_layers :]
        for place, layer in enumerate(layers, start=1):
            keep = 1 if first_only and place == len(layers) else None
            states = run(layer, states, mask, image_tokens, image_mask, keep, recompute=self.config.recompute)
        return states[:, :1] if first_only else states

    def _layers(self) -> list[nn.Module]:
        return [*self.encoder["layer"].children()]


class Embeddings(nn.Module):
    def __init__(self, config: X2VLMConfig) -> None:
        super().__init__()
        width = config.text_width
        self.word_embeddings = nn.Embedding(config.vocabulary, width, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("position_ids", torch.arange(config.positions)[None])

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, D); BadInput where L is more than the model has positions."""
        length, most = ids.shape[1], self.position_embeddings.num_embeddings
        if length > most:
            raise BadInput(f"a text of {length} tokens for a model that reads {most}")
        states = self.word_embeddings(ids) + self.token_type_embeddings.weight[0]
        states = states + self.position_embeddings.weight[:length]
        normed: Tensor = self.dropout(self.LayerNorm(states))
        return normed


class Layer(nn.Module):
    """A post-norm layer: self-attention, cross-attention where it fuses, feed-forward."""

    def __init__(self, config: X2VLMConfig, fuses: bool) -> None:
        super().__init__()
        width = config.text_width
        self.attention = Attention(config, width)
        self.crossattention = Attention(config, config.vision_width) if fuses else None
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, config.text_hidden)})
        self.output = Merge(config.text_hidden, width, config.dropout)

    def forward(
        self,
        states: Tensor,
        mask: Tensor,
        image_tokens: Tensor | None = None,
        image_mask: Tensor | None = None,
        keep: int | None = None,
    ) -> Tensor:
        """(B, L, D) -> (B, L, D), of the first `keep` alone; without image tokens no cross-attention."""
        states = self.attention(states[:, :keep], states, mask, PADDING_DEPTH)
        if self.crossattention is not None and image_tokens is not None:
            if image_mask is None:
                image_mask = image_tokens.new_ones(image_tokens.shape[:2])
            states = self.crossattention(states, image_tokens, image_mask, PICTURE_DEPTH)
        merged: Tensor = self.output(F.gelu(self.intermediate["dense"](states)), states)
        return merged


class Attention(nn.Module):
    """Attention from states to what is `seen` (of width `width`), merged into the states."""

    def __init__(self, config: X2VLMConfig, width: int) -> None:
        super().__init__()
        self.heads, self.dropout = config.text_heads, config.dropout
        sources = {"query": config.text_width, "key": width, "value": width}
        self.self = nn.ModuleDict(  # BERT's name for it
            {name: nn.Linear(source, config.text_width) for name, source in sources.items()}
        )
        self.output = Merge(config.text_width, config.text_width, config.dropout)

    def forward(self, states: Tensor, seen: Tensor, mask: Tensor, depth: float) -> Tensor:
        """(B, L, D), (B, K, width), mask (B, K) -> (B, L, D)."""
        query = self.self["query"](states)
        key, value = self.self["key"], self.self["value"]
        assert isinstance(key, nn.Linear) and isinstance(value, nn.Linear)
        bias = hiding(mask, depth, query.dtype)
        dropout = self.dropout if self.training else 0.0
        if states.shape[1] == 1:
            mixed = attend_once(query, seen, key, value, self.heads, bias, dropout)
        else:
            mixed = attend(query, key(seen), value(seen), self.heads, bias, dropout)
        merged: Tensor = self.output(mixed, states)
        return merged


class Merge(nn.Module):
    """The end of each branch: projected, dropped out, added to what came in, normalised."""

    def __init__(self, width_in: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.LayerNorm = nn.LayerNorm(width, EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, branch: Tensor, states: Tensor) -> Tensor:
        merged: Tensor = self.LayerNorm(self.dropout(self.dense(branch)) + states)
        return merged


class MaskedWords(nn.Module):
    """The head that predicts words, where BERT keeps it."""

    def __init__(self, config: X2VLMConfig) -> None:
        super().__init__()
        self.predictions = Predictions(config)

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        scores: Tensor = self.predictions(states)
        return scores


class Predictions(nn.Module):
    """States -> scores of all words. The decoder is tied: TextEncoder gives it its weights."""

    def __init__(self, config: X2VLMConfig) -> None:
        super().__init__()
        width = config.text_width
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))
        self.transform = nn.ModuleDict(
            {"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, EPS)}
        )
        self.decoder = nn.Linear(width, config.vocabulary, device="meta")

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        states = self.transform["LayerNorm"](F.gelu(self.transform["dense"](states)))
        scores: Tensor = self.decoder(states)
        return scores


def _start(module: nn.Module) -> None:
    """BERT's initial weights, of this module alone."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
