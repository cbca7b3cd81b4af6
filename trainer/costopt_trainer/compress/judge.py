"""Why nobody would deploy a variant, found in its figures. Pure; a gate of the user's own numbers can take its place.

find_faults   the marks of a report, each with the numbers that it follows from
"""

from costopt.schema.variant_report import Measurement, VariantFault

SLOWER_BELOW = 0.9
"""Times the model's speed. Two equal models are measured within a few percent of each other on a quiet machine."""
SMALLER_ABOVE = 1.05
"""Times smaller than the model; less is nothing that anybody would deploy another model for."""


def find_faults(
    baseline: Measurement, measured: Measurement, *, trivial_loss: float, speed_is_wanted: bool
) -> list[VariantFault]:
    """What speaks against the variant `measured`; nothing is an empty list.

    `trivial_loss` is what guessing by frequency reaches on the same targets, in the unit of the losses.
    `speed_is_wanted` says that being faster is what the variant's steps are for.
    """
    faults: list[VariantFault] = []
    speed = baseline.latency_microseconds / max(measured.latency_microseconds, 1)
    size = baseline.size_bytes / max(measured.size_bytes, 1)
    if speed < SLOWER_BELOW and (speed_is_wanted or size < SMALLER_ABOVE):
        times = f"{measured.latency_microseconds / 1000:.4g} ms beside {baseline.latency_microseconds / 1000:.4g} ms"
        if size < SMALLER_ABOVE:
            message = f"it is {speed:.2f}x as fast as the model ({times}) and only {size:.2f}x smaller"
            faults.append(VariantFault(reason="SlowerAndNotSmaller", message=message))
        else:
            message = f"it is {speed:.2f}x as fast as the model ({times}), though its steps are there for speed"
            faults.append(VariantFault(reason="Slower", message=message))
    loss = float(measured.validation_loss)
    if loss >= trivial_loss:
        message = (
            f"its validation loss {loss:.4g} is no better than {trivial_loss:.4g}, what guessing by frequency gets"
        )
        faults.append(VariantFault(reason="NoBetterThanGuessing", message=message))
    return faults
