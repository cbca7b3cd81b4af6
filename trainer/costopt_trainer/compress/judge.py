"""Why nobody would deploy a variant, from its figures. Pure; a gate with the user's own numbers can replace it.

find_faults   the faults in a report, each with the numbers behind it
"""

from costopt.schema.variant_report import Measurement, VariantFault

SLOWER_BELOW = 0.9
"""Times the model's speed. Measurements of two equal models differ by a few percent on a quiet machine."""
SMALLER_ABOVE = 1.05
"""Times smaller than the model; nobody would deploy another model for less."""


def find_faults(
    baseline: Measurement, measured: Measurement, *, trivial_loss: float, speed_is_wanted: bool
) -> list[VariantFault]:
    """The reasons against the variant `measured`; an empty list if there are none.

    `trivial_loss` is the loss of guessing by frequency on the same targets, in the unit of the losses.
    `speed_is_wanted` says that speed is the purpose of the variant's steps.
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
