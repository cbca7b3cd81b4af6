"""The number of data-parallel ranks: one function, whatever degrees there are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costopt.schema.degrees import (
    DEGREES,
    UNFIT_DEGREES,
    cel_data_parallel_ranks,
    cel_degree,
    cel_degrees_fit,
    data_parallel_ranks,
    degrees_of,
    fault_of_degrees,
)
from costopt.schema.models import split_fault
from costopt.schema.parallelism import Parallelism


@given(replicas=st.integers(1, 64), pipeline=st.integers(1, 64), told=st.booleans())
def test_the_ranks_are_replicas_times_stages(replicas: int, pipeline: int, told: bool) -> None:
    degrees = {"pipeline": pipeline, **({"dataParallel": replicas} if told else {})}
    assert data_parallel_ranks(replicas * pipeline, degrees) == replicas


@given(world_size=st.integers(1, 64), pipeline=st.integers(1, 64), replicas=st.integers(1, 64))
def test_degrees_whose_product_is_another_number_are_refused(world_size: int, pipeline: int, replicas: int) -> None:
    degrees = {"pipeline": pipeline, "dataParallel": replicas}
    if replicas * pipeline == world_size:
        assert fault_of_degrees(world_size, degrees) is None
    else:
        with pytest.raises(ValueError, match="times tensor must be the number of ranks"):
            data_parallel_ranks(world_size, degrees)


def test_a_pipeline_longer_than_the_ranks_is_refused() -> None:
    assert fault_of_degrees(2, {"pipeline": 4}) == UNFIT_DEGREES


def test_a_degree_of_nothing_is_another_mistake() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        data_parallel_ranks(2, {"pipeline": 0})


def test_each_degree_is_a_field_of_parallelism_and_at_least_1() -> None:
    fields = {field.alias or name: field for name, field in Parallelism.model_fields.items()}
    for name in DEGREES:
        assert name in fields
        with pytest.raises(ValueError, match="greater than or equal to 1"):
            Parallelism.model_validate({name: 0})
        assert Parallelism().to_plain().get(name) == (None if name == "dataParallel" else 1)


def test_another_degree_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEGREES, "expert", "model")
    assert data_parallel_ranks(24, {"pipeline": 2, "expert": 4}) == 3
    assert fault_of_degrees(24, {"pipeline": 2, "expert": 5}) == UNFIT_DEGREES
    degrees = {name: cel_degree("self", name) for name in DEGREES}
    for cel in (cel_data_parallel_ranks("24", degrees), cel_degrees_fit("24", degrees)):
        assert " * self.parallelism.expert" in cel


@given(degrees=st.lists(st.integers(1, 16), min_size=4, max_size=4))
def test_ranks_that_get_other_samples_are_replicas_times_shards(degrees: list[int]) -> None:
    pipeline, replicas, shard, tensor = degrees
    ranks = pipeline * replicas * shard * tensor
    given = {"pipeline": pipeline, "shard": shard, "tensor": tensor}
    assert data_parallel_ranks(ranks, given) == replicas * shard
    assert degrees_of(ranks, given) == {**given, "dataParallel": replicas}


def test_only_where_it_trains_can_be_told_whether_a_model_of_another_library_is_split() -> None:
    assert split_fault({"type": "HuggingFace", "huggingFace": {"path": "a"}}, 2, sequence=False) is None
    assert split_fault({"type": "HuggingFace", "huggingFace": {"path": "a"}}, 2, sequence=True) == "type"
    assert split_fault({"type": "Import", "import": {"function": "a:b"}}, 2, sequence=False) == "type"
