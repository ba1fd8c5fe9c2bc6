from __future__ import annotations

from pathlib import Path

import pytest

from swapnet.models import imagenet


def test_names_follow_the_order_of_the_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {
        "imagenet_synsets.txt": "n2\nn1\n",
        "imagenet_synset_to_lemma.txt": "n1\ttench, Tinca tinca\nn2\tgoldfish\nn3\tbenthos\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(imagenet, "member", lambda _, path: tmp_path / Path(path).name)
    assert imagenet.class_names() == ("goldfish", "tench")


@pytest.mark.slow
def test_published_names_are_the_known_ones() -> None:
    named = imagenet.class_names()
    assert len(named) == 1000
    assert (named[0], named[285], named[999]) == ("tench", "Egyptian cat", "toilet tissue")
