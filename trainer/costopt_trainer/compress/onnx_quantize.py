"""Fewer bits in an ONNX graph (onnxruntime): the schemes of Quantize, each as a row of a table.

    quantize_graph      the graph in a folder -> a graph of few bits in another
    store_ties_once     a head that is the embedding, which the exporter has made two matrices of
    calibration_inputs  the training samples that show how large activations become

Int8 weights are symmetric with one scale for each output. Activations are unsigned with a zero point: one scale for all
of a batch, found at run time or beforehand (Int8Static). On processors that add up products of 8 bits in 16, weights
get 7 bits, because 8 would overflow. 4-bit weights, and 8-bit weights alone, have a scale for each group of inputs of
each output (MatMulNBits). What is quantized are products with a constant matrix, and, for Int8Static, convolutions and
what lies between them. A head that is the embedding stays whole, and is stored once, unless embeddings have few bits.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from costopt.schema.compression import DEFAULT_GROUP_SIZE, Calibration, Quantize, calibrates
from costopt_trainer.compress.gptq import gptq, pack
from costopt_trainer.compress.onnx_export import is_large, quiet
from costopt_trainer.data import TrainingData
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.onnx_model import DATA_FILE, GRAPH_FILE

WEIGHT_ONLY_GROUP_SIZE = 128
"""Of 8-bit weights, which lose little."""
_INT8_ACTIVATIONS = 4
"""The attribute accuracy_level of MatMulNBits: products of 8 bits, the fastest on a CPU."""
_KEPT_BITS_BELOW = 4
"""Layers to be kept in more bits than so few have 8; in more than 8 they are whole."""
_BETWEEN_CONVOLUTIONS = ("Relu", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape")

Inputs = NDArray[Any]


@dataclass(frozen=True)
class _Job:
    """One graph to be quantized."""

    graph: Any
    """onnx.ModelProto, with weights; may be changed."""
    products: list[str]
    """Names of the nodes that multiply with a constant matrix."""
    convolutions: list[str]
    settings: Quantize
    reduce_range: bool
    calibration: Sequence[Inputs]
    kept: list[str]
    """Names of such nodes, in neither list, that have 8 bits where the others have 4."""

    def named(self, *kinds: str) -> list[str]:
        """Names of the nodes of these kinds."""
        return [node.name for node in self.graph.graph.node if node.op_type in kinds]

    def embeddings(self) -> list[str]:
        """Names of the nodes that look up embeddings, if these are to have few bits."""
        return self.named("Gather") if self.settings.embeddings else []


def calibration_inputs(data: TrainingData, settings: Calibration, batch_size: int) -> list[Inputs]:
    """Inputs of training samples, drawn by the seed, in whole batches; one smaller batch if there are fewer samples."""
    count = min(settings.samples, data.num_train_samples)
    drawn = np.random.default_rng(settings.seed).choice(data.num_train_samples, size=count, replace=False)
    size = min(batch_size, count)
    starts = range(0, count - size + 1, size)
    return [data.train_batch(drawn[start : start + size].astype(np.int64))[0].numpy() for start in starts]


def quantize_graph(
    source: Path,
    target: Path,
    settings: Quantize,
    *,
    reduce_range: bool,
    calibration: Sequence[Inputs] = (),
    kept: Mapping[str, Tensor] | None = None,
) -> str:
    """Write the graph in the folder `source`, in few bits, into the folder `target`; returns what was done.

    `reduce_range`: weights of 7 bits instead of 8. `calibration` are batches of inputs, where they are needed. `kept`:
    weights of layers, by name, that stay whole, or have 8 bits where others have 4. Raises
    NotRetryable("InvalidSettings") if there is nothing to quantize, or to calibrate with.
    """
    if calibrates(settings) and not calibration:
        raise NotRetryable("InvalidSettings", f"{settings.scheme} needs training samples to calibrate with")
    with quiet():
        graph = _prepared(source, settings)
        constants = {tensor.name: len(tensor.dims) for tensor in graph.graph.initializer}
        nodes = list(graph.graph.node)
        products = [node.name for node in nodes if node.op_type == "MatMul" and constants.get(node.input[1]) == 2]
        convolutions = [node.name for node in nodes if node.op_type == "Conv"]
        left = _nodes_of(graph, kept or {})
        products = [name for name in products if name not in left]
        convolutions = [name for name in convolutions if name not in left]
        job = _Job(graph, products, convolutions, settings, reduce_range, calibration, left)
        static = settings.scheme == "Int8Static"
        if not (products or (convolutions and static)):
            raise NotRetryable("InvalidSettings", "a Quantize step needs a model with at least one linear layer")
        quantized = _SCHEMES[settings.scheme](job, target)
        if quantized is not None:
            _save(quantized, target)
    also = f", convolutions: {len(convolutions)}" if convolutions and static else ""
    also += f", kept in more bits: {len(left)}" if left else ""
    whole = f" ({len(convolutions)} convolution layers stay as they are)" if convolutions and not static else ""
    return f"Quantize {settings.scheme}: in the ONNX graph, matrices: {len(products)}{also}{whole}"


def _nodes_of(graph: Any, kept: Mapping[str, Tensor]) -> list[str]:
    """Names of the nodes that multiply with these weights. Matrices have no names of their own in a graph: they are
    known by their values; convolutions, into which norms are folded, by their names."""
    import onnx  # noqa: PLC0415

    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    arrays = [weight.detach().float().cpu().numpy() for weight in kept.values() if weight.dim() == 2]
    convolutions = {f"{name}.weight" for name, weight in kept.items() if weight.dim() > 2}

    def is_kept(node: Any) -> bool:
        if node.op_type == "Conv":
            return node.input[1] in convolutions
        tensor = tensors.get(node.input[1]) if node.op_type == "MatMul" else None
        if tensor is None:
            return False
        fitting = [array for array in arrays if list(array.shape) == list(tensor.dims)[::-1]]
        if not fitting:
            return False
        values = onnx.numpy_helper.to_array(tensor).T
        return any(np.array_equal(values, array) for array in fitting)

    return [node.name for node in graph.graph.node if is_kept(node)]


def _prepared(source: Path, settings: Quantize) -> Any:
    """The graph in `source` with a name for each node, and each linear layer as a product and an addition."""
    import onnx  # noqa: PLC0415  not everybody has it
    from onnxruntime.quantization.onnx_model import ONNXModel  # noqa: PLC0415  as above

    graph = onnx.load(source / GRAPH_FILE)
    del graph.graph.value_info[:]  # shapes that the exporter has noted before matrices were transposed
    ONNXModel(graph).replace_gemm_with_matmul()
    ONNXModel(graph).clean_initializers()
    for number, node in enumerate(graph.graph.node):
        node.name = f"{node.op_type}_{number}"
    if not settings.embeddings:
        _store_once(graph.graph)
    return graph


def store_ties_once(folder: Path) -> None:
    """Have the graph in `folder` hold a head that is the embedding once."""
    with quiet():
        import onnx  # noqa: PLC0415

        graph = onnx.load(folder / GRAPH_FILE)
        _store_once(graph.graph)
        (folder / DATA_FILE).unlink(missing_ok=True)
        _save(graph, folder)


def _store_once(graph: Any) -> None:
    """Have a matrix that is the embedding, transposed, computed of it when the graph is loaded."""
    import onnx  # noqa: PLC0415

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    embeddings = [
        tensors[node.input[0]] for node in graph.node if node.op_type == "Gather" and node.input[0] in tensors
    ]
    for number, node in enumerate(list(graph.node)):
        other = tensors.get(node.input[1]) if node.op_type == "MatMul" else None
        if other is None:
            continue
        for embedding in embeddings:
            if list(other.dims) != list(embedding.dims)[::-1]:
                continue
            if np.array_equal(onnx.numpy_helper.to_array(other).T, onnx.numpy_helper.to_array(embedding)):
                turned = onnx.helper.make_node(
                    "Transpose", [embedding.name], [other.name], f"tied_{number}", perm=[1, 0]
                )
                graph.initializer.remove(other)
                graph.node.insert(0, turned)
                break


def _int8_dynamic(job: _Job, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    quantize_dynamic(
        job.graph,
        str(target / GRAPH_FILE),
        op_types_to_quantize=["MatMul", "Gather"],
        nodes_to_quantize=[*job.products, *job.embeddings()],
        per_channel=True,
        reduce_range=job.reduce_range,
        weight_type=QuantType.QInt8,
        use_external_data_format=is_large(_bytes_of(job.graph)),
    )


def _int8_static(job: _Job, target: Path) -> None:
    from onnxruntime import quantization  # noqa: PLC0415
    from onnxruntime.quantization import calibrate  # noqa: PLC0415

    calibrate.print = lambda *_words: None  # its words would stand between our own lines
    kinds = _BETWEEN_CONVOLUTIONS if job.convolutions else ()
    if job.settings.embeddings:
        kinds = (*kinds, "Gather")
    quantization.quantize_static(
        job.graph,
        str(target / GRAPH_FILE),
        _Reader(job),
        op_types_to_quantize=["MatMul", "Conv", *kinds],
        nodes_to_quantize=[*job.products, *job.convolutions, *job.named(*kinds)],
        per_channel=True,
        reduce_range=job.reduce_range,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=calibrate.CalibrationMethod[(job.settings.calibration or Calibration()).method],
        use_external_data_format=is_large(_bytes_of(job.graph)),
        extra_options={
            # What a product gives stays whole until the next one reads it.
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
            "CalibTensorRangeSymmetric": False,
            "CalibStridedMinMax": 1,  # one batch at a time, so that memory is bounded
        },
    )


class _Reader:
    """Batches of inputs, one after the other, as onnxruntime asks for them."""

    def __init__(self, job: _Job) -> None:
        self._name = job.graph.graph.input[0].name
        self._batches = list(job.calibration)
        self._left: list[Inputs] = list(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """What is to be read next."""
        self._left = self._batches[start_index:end_index]

    def get_next(self) -> dict[str, Inputs] | None:
        """The next batch, by the input's name; None at the end."""
        return {self._name: self._left.pop(0)} if self._left else None


def _in_groups(bits: int, group_size: int) -> Callable[[_Job, Path], Any]:
    def quantize(job: _Job, target: Path) -> Any:
        from onnxruntime.quantization import matmul_nbits_quantizer as library  # noqa: PLC0415

        def config(bits: int, group_size: int, *kinds: str) -> Any:
            return library.DefaultWeightOnlyQuantConfig(
                block_size=group_size,
                bits=bits,
                is_symmetric=False,
                accuracy_level=_INT8_ACTIVATIONS,
                op_types_to_quantize=kinds,
            )

        kinds = ("MatMul", "Gather") if job.settings.embeddings else ("MatMul",)
        wanted = config(bits, job.settings.group_size or group_size, *kinds)
        products = _products_of_inputs(job, target) if job.settings.rounding == "GPTQ" else None
        quantizer = library.MatMulNBitsQuantizer(job.graph, algo_config=wanted, nodes_to_exclude=job.kept)
        if products is not None:
            quantizer.node_quantizer = _by_gptq(library, wanted, products)
        quantizer.process()
        graph = quantizer.model.model
        if job.kept and bits == _KEPT_BITS_BELOW:
            more = config(8, job.settings.group_size or group_size, "MatMul")
            quantizer = library.MatMulNBitsQuantizer(graph, algo_config=more)
            quantizer.process()
            graph = quantizer.model.model
        return graph

    return quantize


def _by_gptq(library: Any, config: Any, products: dict[str, Tensor]) -> Any:
    """onnxruntime's quantizer of single matrices, with another rounding, for which it has `products` of each input."""

    class ByGptq(library.DefaultWeightOnlyQuantizer):
        def quantize_matmul(self, node: Any, graphs: Any) -> Any:
            self.products = products.get(node.input[0])  # none of what multiplies no weights, as scores of attention do
            return super().quantize_matmul(node, graphs)

        def qbits_block_quant(self, weights: Inputs) -> tuple[Inputs, Inputs, Inputs]:
            assert self.products is not None  # noqa: S101  these are constant
            return pack(gptq(torch.from_numpy(weights.copy()), self.products, config.block_size))

    return ByGptq(config)


def _products_of_inputs(job: _Job, target: Path) -> dict[str, Tensor]:
    """Of what each matrix is multiplied with: (K, K) sums of products over all samples, by its name in the graph. The
    graph lies in the folder `target` meanwhile."""
    import onnx  # noqa: PLC0415

    constant, graph = set(job.products), job.graph.graph
    read = list(dict.fromkeys(node.input[0] for node in graph.node if node.name in constant))
    own = len(graph.output)
    with tempfile.TemporaryDirectory(dir=target, prefix=".shown-") as name:
        graph.output.extend(onnx.helper.make_tensor_value_info(each, onnx.TensorProto.FLOAT, None) for each in read)
        _save(job.graph, Path(name))  # takes weights that lie beside the graph out of it
        onnx.load_external_data_for_model(job.graph, name)
        del graph.output[own:]
        return _sums_of_products(Path(name) / GRAPH_FILE, read, job.calibration)


def _sums_of_products(path: Path, read: Sequence[str], calibration: Sequence[Inputs]) -> dict[str, Tensor]:
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0].name
    sums: dict[str, Tensor] = {}
    for batch in calibration:
        for name, value in zip(read, session.run(read, {given: batch}), strict=True):
            rows = torch.from_numpy(value).flatten(0, -2).double()
            sums[name] = sums.get(name, 0) + rows.T @ rows
    return sums


_SCHEMES: dict[str, Callable[[_Job, Path], Any]] = {
    "Int8WeightOnly": _in_groups(8, WEIGHT_ONLY_GROUP_SIZE),
    "Int8DynamicActivation": _int8_dynamic,
    "Int8Static": _int8_static,
    "Int4WeightOnly": _in_groups(4, DEFAULT_GROUP_SIZE),
}
"""Each writes the graph, or returns it."""


def has_bits_of(scheme: str) -> bool:
    """Whether a graph can have what `scheme` of Quantize makes."""
    return scheme in _SCHEMES


def _bytes_of(graph: Any) -> int:
    return sum(len(tensor.raw_data) for tensor in graph.graph.initializer)


def _save(graph: Any, target: Path) -> None:
    """Write it into a folder that has none; `graph` loses weights that lie in a file of their own."""
    import onnx  # noqa: PLC0415

    path, beside = str(target / GRAPH_FILE), is_large(_bytes_of(graph))
    onnx.save_model(graph, path, save_as_external_data=beside, all_tensors_to_one_file=True, location=DATA_FILE)
