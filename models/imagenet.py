"""The names of ImageNet's 1000 classes, out of the data files of the timm package."""

from __future__ import annotations

from swapnet.models.fetch import Wheel, member

__all__ = ["class_names"]

_FOLDER = "timm/data/_info"
_TIMM = Wheel(
    project="timm",
    version="1.0.20",
    sha256="f6e62f780358476691996c47aa49de87b95cc507edf923c3042f74a07e45b7fe",
    members=(f"{_FOLDER}/imagenet_synsets.txt", f"{_FOLDER}/imagenet_synset_to_lemma.txt"),
)


def class_names() -> tuple[str, ...]:
    """Return the name of each class, the first where it has several."""
    synsets, lemmas = (
        member(_TIMM, path).read_text(encoding="utf-8").splitlines() for path in _TIMM.members
    )
    named = dict(line.split("\t", 1) for line in lemmas)
    return tuple(named[synset].split(",")[0] for synset in synsets)
