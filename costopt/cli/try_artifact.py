"""`costopt try ARTIFACT INPUT`: what a model makes of an input, in a process of its own."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from costopt.cli.inputs import Output
from costopt.cli.tables import table
from costopt.cli.trainer_program import ask
from costopt.cli.views import console
from costopt.local.run_folder import RunFolder
from costopt.names import ARTIFACTS_DIR, JOB_FILE, MODEL_DIR
from costopt.refused import Refused
from costopt.schema.trial import MAX_INPUT_CHARACTERS, MOST_TOKENS, TrialAnswer, TrialRequest

MODULE = "costopt_trainer.trial.process"
MAX_ANSWER_BYTES = 2**23

Artifact = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="Folder of an artifact, such as runs/<job>/artifacts/<variant>.")
]
Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="A text (with [MASK] where a token is to be told), - for standard input, a file with an image, or the "
        "numbers of a row between commas.",
    ),
]


def try_(
    artifact: Artifact,
    given: Input,
    *,
    max_tokens: Annotated[int, typer.Option(min=1, max=MOST_TOKENS, help="Tokens to add to a text at most.")] = 64,
    temperature: Annotated[str, typer.Option(help="0: the likeliest token, else one that is drawn.")] = "1",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of what is drawn.")] = 0,
    output: Output = "text",
) -> None:
    """Have a model say what it makes of an input: it goes on with a text, tells hidden tokens, or tells a class.

    The model is loaded in a process of its own, on the CPU, as the trainer loads it. Nothing in its folder is run as
    code: a model that needs code of its own is refused.
    """
    if importlib.util.find_spec("torch") is None:
        raise Refused("the trainer must be on this machine to load a model: install costopt[trainer]")
    text = sys.stdin.read(MAX_INPUT_CHARACTERS + 1) if given == "-" else given
    _refuse_run_folder(artifact)
    try:
        request = TrialRequest(
            folder=str(artifact), input=text, max_tokens=max_tokens, temperature=temperature, seed=seed
        )
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        what = {
            "temperature": f"--temperature must be a number of at least 0, such as 0.8, not {temperature}",
            "input": f"the input must have at most {MAX_INPUT_CHARACTERS} characters",
        }
        raise Refused(what.get(field, f"{field} must be shorter")) from None
    found = _answer(request)
    if output == "json":
        typer.echo(json.dumps(found.to_plain(), indent=2))
    else:
        _print(found, text)


def _refuse_run_folder(artifact: Path) -> None:
    if (artifact / JOB_FILE).exists():
        RunFolder(artifact).check()
        raise Refused(
            f"{artifact} is a run folder; name an artifact in it, such as {artifact}/{ARTIFACTS_DIR}/{MODEL_DIR}"
        )
    if not artifact.is_dir():
        raise Refused(f"{artifact} is not a folder; `costopt artifacts` lists the artifacts of a run")


def _answer(request: TrialRequest) -> TrialAnswer:
    """Have the trainer's code make it. Raises Refused in its sentence."""
    return ask(
        MODULE,
        request.model_dump_json(by_alias=True),
        lambda answer: TrialAnswer.model_validate(answer["answer"]),
        task="the process that loads the model must end with an answer",
        max_bytes=MAX_ANSWER_BYTES,
    )


def _print(found: TrialAnswer, text: str) -> None:
    out = console()
    if found.task == "Complete":
        out.print(f"{text}{found.text}", markup=False, soft_wrap=True)
    elif found.text is not None:
        out.print(found.text, markup=False, soft_wrap=True)
    for number, choices in enumerate(found.choices, start=1):
        title = "Classes" if found.task == "Classify" else f"Hidden token {number}"
        column = "class" if found.task == "Classify" else "token"
        rows = [
            (
                choice.label if found.task == "Classify" else repr(choice.label),
                f"{100 * float(choice.probability):.1f}%",
            )
            for choice in choices
        ]
        out.print(table(title, (column, "probability"), rows))
    if found.shortened:
        what = "its end" if found.task == "Complete" else "its beginning"
        out.print(f"The text is longer than the model sees: {what} alone was read.", markup=False, soft_wrap=True)
