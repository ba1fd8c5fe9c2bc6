"""The model zoo: six networks as ONNX files, with real inputs and readable answers.

Four architectures (``vgg19``, ``resnet101``, ``fcn_resnet101``, ``yolov3``) are written here and
carry seeded weights, or real ones where a ``.safetensors`` file is given. Two models
(``ppocrv4_rec``, ``minilm``) are pretrained and come out of published packages, checked by hash.
"""

from __future__ import annotations

from swapnet.models.zoo import ZooFiles, ZooModel, find, get, names

__all__ = ["ZooFiles", "ZooModel", "find", "get", "names"]
