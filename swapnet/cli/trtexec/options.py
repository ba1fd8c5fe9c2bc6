"""Every option of trtexec 11.1, and of versions before that people still type: what it does here.

An option is *mapped* to what it means for an engine that swaps, *noticed* (accepted, with one line
that says why it changes nothing), or *refused* with what to do instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["MAPPED", "OPTIONS", "Option", "Treatment"]

Treatment = Literal["mapped", "noticed", "refused"]


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes
    ----------
    name
        With its dashes.
    treatment
        See the module.
    text
        Its counterpart in SwapNet; the reason of a notice; or what to do instead.
    takes_value
        Whether it has a value; else it is a flag, and a value is optional.
    harmless
        Values at which a refused option is only noticed: trtexec's default.
    """

    name: str
    treatment: Treatment
    text: str
    takes_value: bool = False
    harmless: tuple[str, ...] = ()


MAPPED: Mapping[str, Mapping[str, str]] = {
    "Model": {
        "--onnx=": "build: `swapnet build MODEL.onnx`",
    },
    "Build": {
        "--saveEngine=": "engine directory that is written: `build -o DIR`",
        "--loadEngine=": "engine directory that is read: `bench DIR`",
        "--skipInference": "end after the build",
        "--buildOnly": "as `--skipInference`; trtexec before 8.6",
        "--minShapes=": "`build --min-shapes`, TensorRT only",
        "--optShapes=": "`build --shapes` where `--maxShapes` is not given; else nothing",
        "--maxShapes=": "`build --shapes`: the planned shapes",
        "--memPoolSize=": "`workspace:` is `build --workspace`, TensorRT only; others are ignored",
        "--workspace=": "`build --workspace` in MiB; trtexec before 8.4",
        "--versionCompatible": "`build --version-compatible`, TensorRT only",
        "--vc": "as `--versionCompatible`",
        "--hardwareCompatibilityLevel=": "`build --hardware-compatibility`, TensorRT only",
        "--builderOptimizationLevel=": "`build --builder-optimization-level`, TensorRT only",
        "--fp16": "`build --precision fp16`; gone in trtexec 11",
        "--int8": "`build --precision int8`, with `--data` or `--calib`; gone in trtexec 11",
        "--best": "as `--int8` with `--data` or `--calib`, else as `--fp16`; gone in trtexec 11",
        "--calib=": "`build --calibration`; gone in trtexec 11",
        "--allowWeightStreaming": "allows `--weightStreamingBudget`; SwapNet always streams",
        "--getPlanVersionOnly": "print versions that the engine was built with, and end",
        "--backend=": "`build --backend`",
        "--data=": "`build --data`: real inputs for `--int8`",
    },
    "System": {
        "--device=": "`bench --device`: number of the GPU, for engines of a GPU",
    },
    "Inference": {
        "--shapes=": "`--shapes`: planned shapes, of the build and of inference",
        "--budget=": "`bench --budget`: memory of the model. The default is 100%",
        "--weightStreamingBudget=": "`N%` is `--budget weights:N%`; bytes are weights in "
        "memory beside everything else; `-1` is `auto`, `-2` is `100%`",
        "--loadInputs=": "`bench --load-inputs`: raw bytes, and files of other kinds",
        "--loadRefOutputs=": "`bench --load-ref-outputs`",
        "--accuracyAlgorithm=": "`bench --accuracy-algorithm`",
        "--atol=": "`bench --atol`",
        "--rtol=": "`bench --rtol`",
        "--accuracyThreshold=": "`bench --accuracy-threshold`: exit status 1 above it",
        "--iterations=": "`bench --iterations`",
        "--warmUp=": "`bench --warm-up`",
        "--duration=": "`bench --duration`; -1 is refused",
        "--idleTime=": "`bench --idle-time`",
        "--useManagedMemory": "`bench --gpu-memory managed`, on a GPU only",
        "--threads": "`--threads=N` is `bench --threads N`; alone it changes nothing",
        "--timeDeserialize": "`bench --time-deserialize`",
    },
    "Reporting": {
        "--verbose": "`[V]` lines: explanations of all metrics",
        "--avgRuns=": "inferences in a line of the trace",
        "--percentile=": "`bench --percentile`",
        "--dumpOutput": "print outputs of the last inference",
        "--dumpProfile": "print times of steps and waits",
        "--dumpLayerInfo": "print a layer for each block",
        "--dumpOptimizationProfile": "print planned shapes",
        "--exportTimes=": "`bench --export-times`",
        "--exportOutput=": "`bench --export-output`",
        "--exportProfile=": "`bench --export-profile`",
        "--exportLayerInfo=": "`bench --export-layer-info`",
    },
    "Help": {
        "--help": "print this table",
        "-h": "as `--help`",
    },
}
"""Counterparts of mapped options by the section of trtexec's help; ``--budget``, ``--backend`` and
``--data`` are ours. A name that ends with ``=`` takes a value."""

_NOTICED: Mapping[str, str] = {
    "weights always lie outside of the blocks": "--refit --stripWeights --stripAllWeights",
    "SwapNet leaves this of TensorRT's builder at its default": "--avgTiming= --tacticSources= "
    "--preview= --maxTactics= --maxAuxStreams= --tilingOptimizationLevel= --l2LimitForTiling= "
    "--decomposableAttentions= --noBuilderCache --noCompilationCache --distributiveIndependence",
    "timing caches lie in SwapNet's cache folder": "--timingCacheFile=",
    "SwapNet chooses its own folders for temporary files": "--tempdir= --tempfileControls=",
    "names of operators are always kept": "--profilingVerbosity= --nvtxVerbosity= --nvtxMode=",
    "the native implementation is used": "--pluginInstanceNorm --pi",
    "a CPU computes float32 in full; TensorRT engines keep TF32": "--noTF32",
    "networks are typed by the model": "--stronglyTyped --explicitBatch",
    "inputs and outputs keep the layout of the model": "--directIO",
    "weights are always read ahead, by readers of their own": "--asyncFileReader",
    "copies of inputs and outputs are always in the latency": "--includeDataTransfers "
    "--noDataTransfers",
    "reads go on while blocks compute": "--exposeDMA --sleepTime=",
    "SwapNet waits in its own way": "--useSpinWait --noSpinWait",
    "blocks are launched one by one": "--useCudaGraph --noCudaGraph",
    "the profile is of the counted inferences": "--separateProfileRun",
    "this is of a GPU's cache": "--persistentCacheRatio=",
    "memory is planned by the budget": "--allocationStrategy=",
    "there are no plugins": "--ignoreParsedPluginLibs",
    "nothing is refitted": "--dumpRefit",
    "the peak of memory is always measured": "--monitorMemory",
}

_REFUSED: Mapping[str, str] = {
    "several models at once: swapnet scenario run; one model gains nothing from several callers "
    "under one budget": "--infStreams=1 --streams=1",
    "leave it out: inputs and outputs keep the types and layout of the model": "--inputIO"
    "Formats=chw --outputIOFormats=chw",
    "leave it out: SwapNet does not run on a DLA": "--useDLACore= --allowGPUFallback "
    "--buildDLAStandalone --layerDeviceTypes= --adjustForDLA --reportCapabilityDLA "
    "--uint8AsymmetricQuantizationDLA",
    "use --custom-ops of swapnet build and bench: SwapNet loads no plugins": "--plugins= "
    "--staticPlugins= --dynamicPlugins= --setPluginsToSerialize= --safetyPlugins= "
    "--enablePluginOverride",
    "leave it out: engines run with the full runtime": "--useRuntime=full --leanDLLPath= "
    "--excludeLeanRuntime",
    "leave it out: there are no safety engines": "--safe --dumpKernelText --consistency --cpuOnly "
    "--remoteAutoTuningConfig= --std --serialized=",
    "prune the model first: polygraphy surgeon prune": "--sparsity=disable,enable",
    "build where it runs: swapnet build --backend tensorrt-rtx builds for other GPUs": "--runtime"
    "Platform=SameAsBuild",
    "give one set of shapes: swapnet measure DIR --shapes adds others to an engine": "--profile=0 "
    "--useProfile=0",
    "run once for each pair": "--refPair=0",
    "build again from the new model": "--refitFromOnnx --timeRefit",
    "compare values layer by layer: swapnet accuracy": "--markDebug= --saveDebugTensors= "
    "--markUnfusedTensorsAsDebugTensors --saveAllDebugTensors=",
    "write the outputs: --exportOutput=FILE, or swapnet run --output FILE.npz": "--dumpRawBindings"
    "ToFile",
    "leave it out: SwapNet builds without TensorRT's timing cache where it has to": "--errorOn"
    "TimingCacheMiss",
    "leave it out: SwapNet does not tune TensorRT's build routes": "--tuneBuildRoutes= "
    "--tuneBuildRouteFile= --tuningSearch= --tuningCacheFile= --tuningTimeOut= --tuningResultFile= "
    "--saveAllEngines --dryRun --continue --helpBuildRoute --setBuildRoute=",
    "choose operators that stay in float32: swapnet build --exclude NODE": "--layerPrecisions= "
    "--precisionConstraints= --layerOutputTypes=",
    "SwapNet builds in fp32, fp16 and int8: --fp16 or --int8": "--bf16 --fp8",
    "int4 is for ONNX Runtime on the CPU: swapnet build --precision int4": "--int4",
    "give the shapes: --shapes=NAME:1x3x224x224": "--batch= --maxBatch=",
}


def _options() -> Iterator[Option]:
    for section in MAPPED.values():
        for name, text in section.items():
            yield Option(name.removesuffix("="), "mapped", text, name.endswith("="))
    others: tuple[tuple[Treatment, Mapping[str, str]], ...]
    others = (("noticed", _NOTICED), ("refused", _REFUSED))
    for treatment, texts in others:
        for text, names in texts.items():
            for written in names.split():
                name, is_valued, values = written.partition("=")
                harmless = tuple(filter(None, values.split(",")))
                yield Option(name, treatment, text, bool(is_valued), harmless)


OPTIONS: Mapping[str, Option] = {option.name: option for option in _options()}
"""All options by name: those of trtexec's help, those that it hides or had before, and ours."""
