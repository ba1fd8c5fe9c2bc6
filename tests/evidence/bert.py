"""BERT-base as a PyTorch module, with Hugging Face's names: what accelerate offloads."""

from __future__ import annotations

from torch import Tensor, finfo, float32, nn
from torch.nn import functional

__all__ = ["Bert"]

LAYERS, HIDDEN, HEADS, INNER = 12, 768, 12, 3072
VOCABULARY, POSITIONS, SEGMENTS = 30522, 512, 2
EPSILON = 1e-12


class _Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, HIDDEN)
        self.position_embeddings = nn.Embedding(POSITIONS, HIDDEN)
        self.token_type_embeddings = nn.Embedding(SEGMENTS, HIDDEN)
        self.LayerNorm = nn.LayerNorm(HIDDEN, eps=EPSILON)

    def forward(self, tokens: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        embedded = self.word_embeddings(tokens) + self.token_type_embeddings(segments)
        return self.LayerNorm(embedded + self.position_embeddings(positions))


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(HIDDEN, HIDDEN)
        self.key = nn.Linear(HIDDEN, HIDDEN)
        self.value = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, value: Tensor, mask: Tensor) -> Tensor:
        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(
            heads(self.query(value)), heads(self.key(value)), heads(self.value(value)), mask
        )
        return mixed.transpose(1, 2).flatten(2)


class _Residual(nn.Module):
    """A projection, added to what came before, then normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, HIDDEN)
        self.LayerNorm = nn.LayerNorm(HIDDEN, eps=EPSILON)

    def forward(self, value: Tensor, before: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(value) + before)


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": _Attention(), "output": _Residual(HIDDEN)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(HIDDEN, INNER)})
        self.output = _Residual(INNER)

    def forward(self, value: Tensor, mask: Tensor) -> Tensor:
        attended = self.attention["output"](self.attention["self"](value, mask), value)
        inner = functional.gelu(self.intermediate["dense"](attended))
        return self.output(inner, attended)


class Bert(nn.Module):
    """Post-normalised encoder of 12 layers; GELU by the error function."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = _Embeddings()
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer() for _ in range(LAYERS))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(HIDDEN, HIDDEN)})

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
    ) -> dict[str, Tensor]:
        """Hidden states and the pooled first one, by the names of the ONNX model."""
        positions = input_ids.new_ones(input_ids.shape).cumsum(1) - 1
        mask = (1 - attention_mask[:, None, None, :].to(float32)) * finfo(float32).min
        value = self.embeddings(input_ids, token_type_ids, positions)
        for layer in self.encoder["layer"]:
            value = layer(value, mask)
        pooled = self.pooler["dense"](value[:, 0]).tanh()
        return {"last_hidden_state": value, "pooler_output": pooled}
