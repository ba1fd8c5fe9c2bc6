"""The model zoo: fourteen networks and a language model, with real inputs and readable answers.

Nine architectures (``vgg19``, ``resnet101``, ``resnet18``, ``mobilenet_v2``, ``fcn_resnet101``,
``yolov3``, ``yolov3_tiny``, ``monodepth2``, ``bert_base``) are written here and carry seeded
weights, or real ones where a file of weights is given. Five models (``ppocrv4_rec``,
``ppocrv4_det``, ``ddddocr``, ``efficientnet_lite2``, ``minilm``) are pretrained and come out of
published packages, checked by hash, as the language model ``smollm2`` does.
"""

from __future__ import annotations

from swapnet.models.zoo import ZooFiles, ZooModel, find, get, names, networks

__all__ = ["ZooFiles", "ZooModel", "find", "get", "names", "networks"]
