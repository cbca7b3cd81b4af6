"""What a user reads: tables, sentences, the pace."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from builders.documents import plain_job
from builders.local import price_book
from costopt.accounting.bill import make_bill
from costopt.cli.cost import cost
from costopt.cli.live import Pace, PlainView
from costopt.cli.result import print_result
from costopt.cli.status import status as status_command
from costopt.cli.status_changes import changes
from costopt.cli.variants import size, variants_table
from costopt.cli.views import (
    bill_views,
    console,
    cost_so_far,
    duration,
    early_stopped_text,
    entropies_text,
    failure_text,
    failures_text,
    local_place,
    progress_text,
    restarts_in_place_text,
    stages_table,
    total_cost,
)
from costopt.local.run_folder import RunFolder
from costopt.names import in_words, own_metric_of, own_metric_result
from costopt.schema.job import CostOptJob
from costopt.schema.prices import PriceBook
from costopt.schema.replica import Progress
from costopt.schema.status import (
    Bill,
    Condition,
    EarlyStopped,
    Failure,
    JobStatus,
    StageStatus,
    Total,
)
from costopt.schema.usage import UsageRecord
from costopt.schema.variant_report import (
    Measurement,
    ParetoRow,
    QualityChange,
    Search,
    VariantFault,
    VariantStatus,
)

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


def bill(book: PriceBook | None) -> Bill:
    record = UsageRecord(
        uid="a",
        stage="train",
        attempt=0,
        index=0,
        resources={"cpu": "2", "memory": "1073741824"},
        held_from=NOON,
        held_until=NOON + timedelta(hours=1),
        outcome="Succeeded",
    )
    return make_bill([record], book)


def text_of(*views: object) -> str:
    stream = io.StringIO()
    out = console(stream)
    for view in views:
        out.print(view)
    return stream.getvalue()


def variant() -> VariantStatus:
    def measured(size_bytes: int, latency: int, loss: str) -> Measurement:
        return Measurement(
            size_bytes=size_bytes,
            parameters=1000,
            nonzero_permille=995,
            latency_microseconds=latency,
            validation_loss=loss,
            engine="TorchEager",
        )

    return VariantStatus(
        name="int8",
        measured=measured(1000, 500, "2.01"),
        baseline=measured(4000, 1000, "2.00"),
        size_ratio="4.0",
        speedup="2.0",
        validation_loss_increase="0.01",
        artifact="artifacts/int8",
        reloaded=True,
    )


def test_the_bill_shows_hours_price_cost_and_source_and_their_total() -> None:
    text = text_of(*bill_views(bill(price_book())))
    assert " ".join(text.split()).count("2.000000000 vCPU-Hours 0.04") == 1
    assert "Price of cpu, memory: a test" in text
    assert "total" in text
    assert total_cost(bill(price_book())) == "0.085"
    assert "Productive" in text


def test_the_bill_says_what_of_it_is_estimated_or_put_together() -> None:
    rough = bill(price_book()).model_copy(update={"estimated_records": 3, "coarsened": ["Days", "Causes"]})
    text = " ".join(text_of(*bill_views(rough)).split())
    assert "of 3 replica(s) the end was not seen, or a quantity could not be read" in text
    assert "Too many to be told apart: days, causes." in text
    whole = text_of(*bill_views(bill(price_book())))
    assert "stimated in part" not in whole
    assert "told apart" not in whole


def test_tables_fit_into_eighty_columns_with_every_figure_whole() -> None:
    tables = text_of(*bill_views(bill(price_book())), variants_table([variant()]))
    assert max(len(line.rstrip()) for line in tables.splitlines()) <= 80


def test_what_has_no_price_is_unknown_and_never_0() -> None:
    part = bill(price_book(cpu="0.04"))
    text = text_of(*bill_views(part))
    assert "price book sample has no price for memory" in text
    assert total_cost(part) == "0.08 + unknown"
    assert cost_so_far(part) == "0.080000 USD + unknown"
    unpriced = text_of(*bill_views(bill(None)))
    assert "there is no price book for cpu, memory" in unpriced
    assert total_cost(bill(None)) == cost_so_far(bill(None)) == total_cost(None) == "unknown"
    assert " 0 " not in unpriced


def test_what_has_no_price_for_its_kind_of_capacity_is_named_so_and_sums_stay_aligned() -> None:
    book = price_book()
    records = [
        UsageRecord(
            uid=capacity,
            stage="train",
            attempt=0,
            index=0,
            resources={"cpu": "2", "nvidia.com/gpu": "1"},
            product="A-100",
            capacity_type=capacity,
            held_from=NOON,
            held_until=NOON + timedelta(hours=1),
            outcome="Succeeded",
        )
        for capacity in ("OnDemand", "Spot")
    ]
    text = text_of(*bill_views(make_bill(records, book)))
    assert "has no price for cpu Spot, nvidia.com/gpu, nvidia.com/gpu Spot" in " ".join(text.split())
    assert "nvidia.com/gpu (A-100) Spot" in text
    assert "cpu (A-100)" not in text


def test_figures_stand_below_each_other_even_if_a_part_is_unknown() -> None:
    totals = [Total(key="Startup", list_cost="0.005", unpriced_lines=1), Total(key="Other", list_cost="0.08")]
    text = text_of(*bill_views(bill(price_book()).model_copy(update={"by_cause": totals})))
    assert "0.005 + unknown" in text
    assert "0.080" in text


def test_variants_stand_beside_the_model_they_were_made_of() -> None:
    text = text_of(variants_table([variant()]))
    for figure in ("(trained model)", "3.91 KiB", "1000 B", "4.00x", "1,000", "99.5%", "0.50 ms", "2.00x", "+0.0100"):
        assert figure in text
    assert "accuracy" not in text
    assert "rejected" not in text


def with_measured(report: VariantStatus, **changed: object) -> VariantStatus:
    return report.model_copy(update={"measured": report.measured.model_copy(update=changed)})


def test_variants_of_a_classifier_show_how_much_they_get_right() -> None:
    measured = with_measured(variant(), validation_accuracy_permille=912, validation_macro_f1_permille=874)
    text = text_of(variants_table([measured.model_copy(update={"loss_per": "Sample"})]))
    for word in ("accuracy", "91.2%", "macro F1", "87.4%", "loss in nats per sample"):
        assert word in text
    assert "perplexity" not in text


def test_variants_of_a_language_model_show_perplexity_and_bits_per_byte() -> None:
    measured = with_measured(variant(), validation_loss="2.5")
    text = text_of(variants_table([measured.model_copy(update={"loss_per": "Token", "bytes_per_token": "2.0"})]))
    for word in ("perplexity", "12.18", "bits/byte", "1.8034", "loss in nats per token"):
        assert word in text
    assert "accuracy" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    hidden = text_of(variants_table([variant().model_copy(update={"loss_per": "MaskedToken"})]))
    assert "loss in nats per hidden token" in hidden
    assert "bits/byte" not in hidden
    huge = with_measured(variant().model_copy(update={"loss_per": "Token"}), validation_loss="1e300")
    assert "unknown" in text_of(variants_table([huge]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            QualityChange(metric="Loss", change="0.01", low="-0.002", high="0.022"),
            ("95 % between", "-0.0020 to +0.0220"),
        ),
        (
            QualityChange(metric="Accuracy", change="-0.01", low="-0.0151", high="-0.005"),
            ("accuracy's change", "-1.5 to -0.5 %"),
        ),
    ],
)
def test_how_sure_a_change_is_and_the_slowest_passes_stand_beside_it(
    change: QualityChange, words: tuple[str, str]
) -> None:
    slow = with_measured(variant(), latency_p95_microseconds=1250)
    text = text_of(variants_table([slow.model_copy(update={"quality_change": change, "loss_per": "Token"})]))
    for word in (*words, "p95", "1.25 ms"):
        assert word in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    earlier = text_of(variants_table([variant()]))
    for word in (words[0], "p95"):
        assert word not in earlier, "an earlier version did not measure it"


def test_the_engines_that_a_speedup_compares_are_named() -> None:
    plain = with_measured(variant(), engine="TorchEager")
    plain = plain.model_copy(update={"baseline": plain.baseline.model_copy(update={"engine": "TorchEager"})})
    quantized = with_measured(plain, engine="TorchQuantized")
    text = text_of(variants_table([quantized]))
    assert "int8: run under TorchQuantized, the model beside it under TorchEager, its fastest" in text
    text = text_of(variants_table([plain.model_copy(update={"name": name}) for name in ("half", "third")]))
    assert "half, third: run under TorchEager, and so is the model beside" in text
    earlier = plain.model_copy(update={"baseline": plain.baseline.model_copy(update={"engine": None})})
    assert "run under" not in text_of(variants_table([with_measured(earlier, engine=None)]))


def test_a_loss_of_other_samples_than_the_first_rows_is_marked() -> None:
    other = variant().model_copy(update={"name": "half", "validation_samples": 1024})
    beside = other.baseline.model_copy(update={"validation_loss": "1.9876"})
    text = text_of(variants_table([variant(), other.model_copy(update={"baseline": beside})]))
    assert "half: its loss is of 1,024 samples, on which the model's is 1.9876" in text
    assert "its loss is of" not in text_of(variants_table([variant(), other]))


def test_what_speaks_against_a_variant_is_told_in_table_and_story() -> None:
    fault = VariantFault(reason="Slower", message="it is 0.04x as fast as the model (24 ms beside 1 ms)")
    marked = variant().model_copy(update={"faults": [fault]})
    sentence = "int8: rejected: it is 0.04x as fast as the model (24 ms beside 1 ms)"
    assert sentence in text_of(variants_table([marked]))
    assert sentence in changes(JobStatus(), JobStatus(variants=[marked]))


def test_progress_of_a_classifier_counts_samples_and_shows_how_much_it_gets_right() -> None:
    results = {"validationAccuracyPermille": "934", "validationMacroF1Permille": "901"}
    text = progress_text(Progress(step=1, total_steps=2, samples_per_second=1234, results=results))
    assert text == "step 1/2  accuracy 93.4%  macro F1 90.1%  1,234 samples/s"


def test_progress_of_a_language_model_shows_perplexity_and_bits_per_byte() -> None:
    results = {"validationPerplexityPerToken": "9.1234", "validationBitsPerByte": "3.18921"}
    text = progress_text(Progress(step=1, total_steps=2, results=results))
    assert text == "step 1/2  perplexity 9.12  3.1892 bits/byte"
    hidden = progress_text(Progress(step=1, total_steps=2, results={"validationPerplexityPerMaskedToken": "9"}))
    assert hidden == "step 1/2  perplexity 9.00 per hidden token"


def test_metrics_of_the_models_own_are_shown_with_what_they_are_per() -> None:
    results = {"validationOwnWordsRightPerSample": "0.12345", "validationLossNatsPerSample": "1"}
    text = progress_text(Progress(step=1, total_steps=2, results=results))
    assert text == "step 1/2  words right 0.1235 per sample"
    shown = text_of(variants_table([with_measured(variant(), metrics={"wordsRight": "0.5"})]))
    assert "words right/sample" in shown
    assert "0.5000" in shown
    assert "words right" not in text_of(variants_table([variant()]))


def test_metrics_of_the_models_own_of_any_size_and_name_are_shown_alike_in_both_places() -> None:
    figures = {"hugeOfAWord": "1e300", "small": "-0.00001234", "none": "0"}
    results = {own_metric_result(name): figure for name, figure in figures.items()}
    text = progress_text(Progress(step=1, total_steps=2, results=results))
    assert text == "step 1/2  huge of a word 1e+300 per sample  small -1.234e-05 per sample  none 0.0000 per sample"
    shown = text_of(variants_table([with_measured(variant(), metrics=figures)]))
    for told in ("huge of a word/sample", "1e+300", "-1.234e-05", "0.0000"):
        assert told in shown
    assert own_metric_of(own_metric_result("aVeryLongWord")) == in_words("aVeryLongWord") == "a very long word"


@pytest.mark.parametrize(
    ("loss", "verdict"),
    [("1.9", ": better than both"), ("2.5", "better than one of them"), ("9", "not better than either")],
)
def test_the_loss_stands_beside_the_entropies_of_the_text(loss: str, verdict: str) -> None:
    results = {
        "validationLossNatsPerByte": loss,
        "unigramEntropyNatsPerByte": "3.1",
        "bigramEntropyNatsPerByte": "2.4",
    }
    text = entropies_text(Progress(step=1, total_steps=1, results=results))
    assert text is not None
    assert text.endswith(verdict)
    assert entropies_text(Progress(step=1, total_steps=1)) is None
    assert entropies_text(None) is None


def test_a_failure_says_why_where_its_last_words_and_what_to_do() -> None:
    failure = Failure(
        stage="train",
        attempt=2,
        reason="InvalidData",
        message="text.txt is empty",
        rank=3,
        replica_index=1,
        exit_code=78,
        log_tail=["a line"],
    )
    text = failure_text(failure, local_place("runs/tiny"))
    assert "train failed: InvalidData (attempt 2, rank 3, replica 1, exit code 78)" in text
    assert "text.txt is empty" in text
    assert "    a line" in text
    assert "Correct the data" in text
    assert "with --retry: it goes on from its last checkpoint, if there is one. Read" in text
    saved, unsaved = (failure_text(failure, local_place("runs/tiny", saved=saved)) for saved in (True, False))
    assert "with --retry: it goes on from its last checkpoint. Read" in saved
    assert "with --retry: it begins at its first step, for there is no checkpoint yet. Read" in unsaved
    assert "costopt logs runs/tiny --stage train --attempt 2" in text
    given = failure_text(failure, local_place("runs/tiny", trains=False))
    assert "with --retry: it goes on with its variants. Read" in given


def test_a_batch_that_was_chosen_by_measuring_is_told_with_what_was_measured() -> None:
    chosen = {"globalBatchSize": 96, "noiseScale": "101.37", "measuredUntilStep": 40}
    told = Progress.model_validate({"step": 41, "totalSteps": 90, "autoBatch": chosen})
    assert progress_text(told) == "step 41/90  batch 96 (noise scale 101.4)"
    lost = Progress.model_validate({"step": 41, "totalSteps": 90, "autoBatch": {**chosen, "noiseScale": None}})
    assert progress_text(lost) == "step 41/90  batch 96"


def stopped(**changes: object) -> EarlyStopped:
    plain = {
        "metric": "ValidationLoss",
        "best": "1.2345678",
        "bestStep": 60,
        "modelStep": 60,
        "stoppedAtStep": 80,
        "totalSteps": 100,
        "stepsSaved": 20,
        "hoursSaved": [{"resource": "cpu", "quantity": "2.000000000", "unit": "vCPU-Hours", "listCost": "0.08"}],
        "listCostSaved": "0.08",
        "currency": "USD",
        **changes,
    }
    return EarlyStopped.model_validate(plain)


def test_an_early_stop_is_told_with_what_it_saved_by_status_cost_and_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert early_stopped_text(stopped()) == (
        "Stopped early at step 80 of 100: the validation loss was best at step 60 (1.2346), whose model was kept. "
        "Saved, by estimate: 20 steps, 2.000000000 vCPU-Hours of cpu, 0.08 USD."
    )
    told = early_stopped_text(stopped(metric="Accuracy", best="931", modelStep=80, listCostSaved=None, currency=None))
    assert told == (
        "Stopped early at step 80 of 100: the accuracy was best at step 60 (93.1%). "
        "Saved, by estimate: 20 steps, 2.000000000 vCPU-Hours of cpu, an unknown cost."
    )
    after = status(state="Succeeded").model_copy(update={"early_stopped": stopped(), "bill": bill(price_book())})
    assert "train: stopped early, at step 80 of 100" in changes(status(), after)
    assert not any("early" in line for line in changes(after, after))
    folder = RunFolder(tmp_path)
    folder.create()
    folder.claim(CostOptJob.model_validate(plain_job()))
    folder.write_status(after)
    for show in (lambda: cost(run_dir=tmp_path), lambda: status_command(run_dir=tmp_path)):
        show()
        assert early_stopped_text(stopped()) in capsys.readouterr().out
    print_result(after, local_place("runs/tiny"), [])
    assert early_stopped_text(stopped()) in capsys.readouterr().out


ANEW = {"reason": "Stalled", "message": "rank 3 has been stopped", "rank": 3}


def test_restarts_in_place_have_a_column_once_there_are_some_and_their_cause_a_line() -> None:
    out = io.StringIO()
    console(out).print(stages_table(status(inPlaceRestarts=4)), stages_table(status()))
    with_some, without = out.getvalue().split("Stages")[1:]
    assert "restarts in place" in with_some
    assert " 4" in with_some
    assert "restarts in place" not in without
    told = restarts_in_place_text(status(restartedFor=ANEW).stages[0])
    assert told == "train: ranks were started anew in place: Stalled (rank 3): rank 3 has been stopped"
    assert restarts_in_place_text(status().stages[0]) is None


def status(**stage: object) -> JobStatus:
    progress = Progress(step=50, total_steps=100, last_checkpoint_step=40)
    return JobStatus(
        stages=[StageStatus.model_validate({"name": "train", "state": "Running", **stage})], progress=progress
    )


def resumed(passed_over: str | None = None) -> JobStatus:
    """After the first report of an attempt that has gone on from a checkpoint."""
    progress = Progress(step=30, total_steps=100, resumed_from_step=30, checkpoints_passed_over=passed_over)
    return status().model_copy(update={"progress": progress})


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (JobStatus(), status(state="Starting"), ["train: attempt 0 starts"]),
        (status(), status(), []),
        (status(state="Starting"), status(), []),
        (status(), status(state="Succeeded"), ["train: done"]),
        (status(), status(state="Stopping"), ["train: stopping"]),
        (
            status(),
            status(state="Starting", attempt=1, failures=1),
            ["train: attempt 0 failed", "train: attempt 1 starts"],
        ),
        (
            status(state="Stopping"),
            status(state="Starting", attempt=1, disruptions=1),
            ["train: attempt 0 was interrupted from outside", "train: attempt 1 starts"],
        ),
        (
            status(state="Waiting"),
            status(state="Starting", attempt=1),
            ["train: attempt 1 starts"],
        ),
        (status(), status(state="Failed", failures=1), ["train: attempt 0 failed", "train: failed"]),
        (
            status(),
            status(inPlaceRestarts=1, restartedFor=ANEW),
            ["train: ranks started anew in place (Stalled: rank 3 has been stopped)"],
        ),
        (status(), resumed(), ["train: resumed from the checkpoint of step 30"]),
        (
            status(),
            resumed("the checkpoint of step 40 is damaged"),
            ["train: the checkpoint of step 40 is damaged", "train: resumed from the checkpoint of step 30"],
        ),
    ],
)
def test_each_change_is_told_once(before: JobStatus, after: JobStatus, told: list[str]) -> None:
    assert changes(before, after) == told
    assert changes(after, after) == []


def test_a_finished_variant_and_a_condition_are_told() -> None:
    exceeded = Condition(
        type="BudgetExceeded",
        status="True",
        reason="BudgetExceeded",
        message="the budget of 1 USD is used up",
        last_transition_time=NOON,
    )
    lines = changes(JobStatus(), JobStatus(variants=[variant()], conditions=[exceeded]))
    assert lines == [
        "int8: 4.00x smaller, 2.00x as fast, validation loss +0.0100",
        "the budget of 1 USD is used up",
    ]


def test_the_time_left_follows_the_pace_and_forgets_an_attempt_that_is_over() -> None:
    pace = Pace()

    def left(seconds: float, attempt: int, step: int) -> float | None:
        return pace.seconds_left(seconds, attempt, Progress(step=step, total_steps=100))

    assert left(0, 0, 10) is None
    assert left(10, 0, 20) == 80
    assert left(15, 0, 20) == 75
    assert left(20, 1, 10) is None
    assert left(22, 1, 20) == 16


def test_plain_lines_tell_progress_now_and_then() -> None:
    stream = io.StringIO()
    view = PlainView(stream, JobStatus())
    for step in range(1, 101):
        progress = Progress(step=step, total_steps=100, loss="2.5", tokens_per_second=1200)
        running = status().model_copy(update={"progress": progress})
        view.show(running, step)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train: attempt 0 starts"
    assert 10 <= len(lines) <= 13
    assert lines[-1].startswith("train: step ")
    assert "loss 2.5000  1,200 tokens/s" in lines[-1]


def test_plain_lines_tell_phases_when_they_change_and_now_and_then_how_far_they_are() -> None:
    stream = io.StringIO()
    view = PlainView(stream, status())
    for second in range(41):
        view.show(status(phase=f"tokenizing {second} %"), second)
    view.show(status(phase="rehearsing a step"), 42)
    lines = stream.getvalue().splitlines()
    phases = [line for line in lines if "tokens/s" not in line and "step 50/" not in line]
    assert phases == [*(f"train: tokenizing {second} %" for second in (0, 10, 20, 30, 40)), "train: rehearsing a step"]


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (42, "0:42"), (725, "12:05"), (11220, "3:07:00")])
def test_lengths_of_time_read_as_on_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0 B"), (1023, "1023 B"), (2048, "2.00 KiB"), (5 * 2**30, "5.00 GiB")]
)
def test_sizes_read_in_a_unit_that_leaves_few_digits(amount: int, text: str) -> None:
    assert size(amount) == text


def test_samples_that_were_left_out_are_told_with_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    line = "2 of 1,205 samples are bad and left out; the first: a.jsonl, line 7, must be JSON"
    done = status(state="Succeeded").model_copy(
        update={"progress": Progress(step=9, total_steps=9, bad_samples=line), "bill": None}
    )
    print_result(done, local_place("runs/tiny"), [])
    assert f"Data: {line}\n" in capsys.readouterr().out


def test_each_failed_variant_is_told_not_only_the_latest() -> None:
    def failed(name: str) -> StageStatus:
        why = Failure(stage=name, attempt=0, reason="InvalidSettings", message=f"{name} cannot be made")
        return StageStatus(name=name, state="Failed", failure=why)

    stages = [StageStatus(name="train", state="Succeeded"), failed("first"), failed("second")]
    found = status(state="Failed").model_copy(update={"stages": stages, "failure": stages[2].failure})
    latest, other = failures_text(found, local_place("runs/tiny"))
    assert latest.startswith("second failed: InvalidSettings")
    assert other == "first failed: InvalidSettings: first cannot be made"


def test_a_search_tells_its_cost_in_time_and_money_and_what_no_other_steps_beat() -> None:
    row = ParetoRow(steps="30 % pruned", latency_microseconds=400, size_bytes=2000, quality_drop_percent="1.5")
    search = Search(trials=9, seconds=1200, chosen="static int8", payback_batches=2_400_000, pareto=[row])

    def told(**money: object) -> str:
        found = variant().model_copy(update={"search": search.model_copy(update=money)})
        return " ".join(text_of(variants_table([found])).split())

    text = told(list_cost="0.17", currency="USD", payback_batches_by_cost=3_600_000)
    assert "static int8, found in 9 trials and 1,200 s, paid back after 2,400,000 passes" in text
    assert "search and making cost 0.17 USD, paid back in money after 3,600,000 passes" in text
    assert "no other is as good as 30 % pruned: 0.40 ms, 1.95 KiB, quality -1.50 %" in text
    assert "what the search cost is not known: not all that its stage used has a price" in told()


def test_what_cleaning_and_selection_saved_is_told_with_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    line = "FilterQuality dropped 4 of 24 documents; selection saves 30 of 40 steps of an epoch"
    progress = Progress(step=9, total_steps=9, data_saved=line)
    print_result(
        status(state="Succeeded").model_copy(update={"progress": progress, "bill": None}), local_place("a"), []
    )
    assert f"Data: {line}\n" in capsys.readouterr().out
