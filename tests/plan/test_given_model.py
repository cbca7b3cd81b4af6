"""A job without a training: the variants of a model that is there already."""

from builders.plan import INT8, PRUNED, World, bill, given
from costopt.plan.decide import StartGang


def begun(*variants: dict[str, object], **changed: object) -> World:
    """A world in which the variants were just seen running."""
    world = World(given(*variants, **changed))
    world.look()
    world.look()
    return world


def message(world: World) -> str:
    found = world.status.condition("Succeeded")
    assert found is not None
    return found.message


def test_its_variants_start_at_once_and_the_job_ends_with_them() -> None:
    world = World(given(INT8, PRUNED))
    assert world.look().start == (StartGang("int8", 0), StartGang("pruned", 0))
    world.look()
    assert world.says("Succeeded") == ("Unknown", "Compressing")
    assert [stage.name for stage in world.status.stages] == ["int8", "pruned"]
    world.end_all(0, "int8")
    world.look()
    assert message(world) == "1 of 2 variants are done"
    world.end_all(0)
    world.look()
    assert world.says("Succeeded") == ("True", "Completed")
    assert message(world) == "all variants of the model were made"
    assert [variant.name for variant in world.status.variants] == ["int8", "pruned"]
    assert (world.status.progress, world.status.early_stopped) == (None, None)


def test_they_take_turns_where_only_one_may_be_made_at_a_time() -> None:
    world = World(given(INT8, PRUNED), most_variants=1)
    assert world.look().start == (StartGang("int8", 0),)
    world.end_all(0)
    assert world.look().start == (StartGang("pruned", 0),)


def test_each_is_restarted_by_itself() -> None:
    world = begun(INT8, PRUNED)
    [int8] = world.live("int8")
    world.end(int8, 143, disrupted=True)
    assert world.look().start == (StartGang("int8", 1),)
    assert (world.stage("int8").disruptions, world.state("pruned")) == (1, ("Running", 0))


def test_one_that_fails_for_good_does_not_stop_the_others_but_fails_the_job() -> None:
    world = begun(INT8, PRUNED, restarts={"maxFailures": 0})
    [int8] = world.live("int8")
    world.end(int8, 78, said={"reason": "InvalidSettings", "message": "model.path: /models/tiny must be a folder"})
    world.look()
    assert world.state("pruned") == ("Running", 0)
    world.end_all(0)
    world.look()
    assert world.says("Succeeded") == ("False", "VariantFailed")
    assert message(world) == (
        "variants of the model were not made: int8. int8: model.path: /models/tiny must be a folder"
    )


def test_it_says_what_its_variants_wait_for_as_long_as_none_of_them_runs() -> None:
    world = begun(INT8, PRUNED)
    for each in world.live():
        world.waits(each)
    world.look()
    world.passes(10)
    world.look()
    assert world.says("Succeeded") == ("Unknown", "Pending")
    assert message(world) == "int8, attempt 0, waits for: a node"
    world.runs(world.live("pruned")[0])
    world.look()
    assert world.says("Succeeded") == ("Unknown", "Compressing")


def test_it_is_suspended_and_goes_on_with_the_variants_that_are_not_made() -> None:
    world = begun(INT8, PRUNED)
    world.end_all(0, "int8")
    world.look()
    world.edit(suspend=True)
    world.look()
    world.obey()
    world.look()
    assert world.says("Suspended") == ("True", "SuspendRequested")
    world.edit(suspend=False)
    assert world.look().start == (StartGang("pruned", 1),)
    world.look()
    world.end_all(0)
    world.look()
    assert world.says("Succeeded") == ("True", "Completed")


def test_a_budget_that_is_exceeded_stops_them() -> None:
    world = begun(INT8, budget={"amount": "5"}, priceBookName="sample")
    world.bill = bill("6")
    world.look()
    assert world.state("int8") == ("Stopping", 0)
