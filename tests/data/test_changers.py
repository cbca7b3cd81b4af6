"""Transforms that change text: what each does, that doing it twice changes nothing, and that pieces do not matter."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from builders.transforms import after, transform
from costopt_trainer.data.transforms import blocks as blocks_file
from costopt_trainer.data.transforms.blocks import blocks
from costopt_trainer.data.transforms.personal_data import ALL_KINDS, _masked, masked, passes_luhn

ALPHABETS: dict[str, str] = {
    "FixMojibake": "aé Ã©â€™œ\u009d\u00a0\n<&amp;",
    "RemoveControlCharacters": "ab\n\t\r\x0c\x00\x1b[31m\x9bK\u200b\ufeff\u202e\u00ad",
    "NormalizeWhitespace": "ab \t\n\r\x0c\u00a0\u2028\x85",
    "CorrectSpelling": "recievtablangu \n'.(",
    "MaskPersonalData": "ab@.:+1234567890- \n[]()",
}
"""Characters with which each transform has something to do."""
CHANGERS: list[tuple[str, dict[str, Any]]] = [
    ("FixMojibake", {}),
    ("FixMojibake", {"unescapeHtml": True}),
    ("RemoveControlCharacters", {}),
    ("RemoveControlCharacters", {"keepDirection": True}),
    ("NormalizeWhitespace", {}),
    ("NormalizeWhitespace", {"blanks": "Collapse", "maxBlankLines": 0}),
    ("CorrectSpelling", {}),
    ("MaskPersonalData", {}),
]
MADE = {f"{word} {own}": (word, transform(word, **own)) for word, own in CHANGERS}


@st.composite
def cut_text(draw: st.DrawFn, alphabet: str) -> list[str]:
    """A text in pieces, cut anywhere."""
    text = draw(st.text(st.sampled_from(alphabet), max_size=60))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=5)))
    return [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_file, "BLOCK_BYTES", 32)


@pytest.mark.parametrize("name", MADE)
@given(data=st.data())
@settings(max_examples=40)
def test_pieces_cut_anywhere_give_the_same_and_twice_is_as_once(name: str, data: st.DataObject) -> None:
    word, made = MADE[name]
    pieces = data.draw(cut_text(ALPHABETS[word]))
    once = after(made, "".join(pieces))
    assert after(made, *pieces) == once
    assert after(made, once) == once


@pytest.mark.parametrize("name", MADE)
def test_a_document_in_many_blocks_is_changed_as_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of lines that fit into a block."""
    word, made = MADE[name]
    source = random.Random(1)
    for _ in range(40):
        lines = ["".join(source.choices(ALPHABETS[word], k=source.randrange(8))) for _ in range(40)]
        text = "\n".join(lines)
        monkeypatch.setattr(blocks_file, "BLOCK_BYTES", 1 << 20)
        whole = after(made, text)
        monkeypatch.setattr(blocks_file, "BLOCK_BYTES", 64)
        assert len(list(blocks([text.encode()]))) > 1
        assert after(made, text) == whole


# Blocks.


@given(cut_text("ab\n é語"), st.integers(4, 20))
def test_blocks_hold_all_of_the_text_and_end_at_line_ends(pieces: list[str], size: int) -> None:
    before, blocks_file.BLOCK_BYTES = blocks_file.BLOCK_BYTES, size
    try:
        found = list(blocks(piece.encode() for piece in pieces))
        assert found == list(blocks(["".join(pieces).encode()]))
    finally:
        blocks_file.BLOCK_BYTES = before
    assert "".join(found) == "".join(pieces)
    assert all(len(block.encode()) <= size for block in found)
    assert all("\n" not in block or block.endswith("\n") for block in found[:-1])


def test_memory_is_bounded_whatever_the_size_of_a_document() -> None:
    largest = 0

    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 100_000

    for block in blocks(pieces()):
        largest = max(largest, len(block))
    assert largest <= blocks_file.BLOCK_BYTES


# What each does.


def test_text_that_was_decoded_wrongly_once_or_twice_is_mended() -> None:
    spoiled = "schön – naïve".encode().decode("windows-1252")
    twice = "café".encode().decode("latin-1").encode().decode("latin-1")
    assert after(transform("FixMojibake"), f"{spoiled}\n{twice}\nschön\n") == "schön – naïve\ncafé\nschön\n"
    assert after(transform("FixMojibake"), "a &amp; b <p>\x1b ﬁ “q”\r\n") == "a &amp; b <p>\x1b ﬁ “q”\r\n"
    unescaping = transform("FixMojibake", unescapeHtml=True)
    assert after(unescaping, "a &amp; b\n<p> &amp;\n") == "a & b\n<p> &amp;\n", "each line by itself"


def test_what_nobody_sees_is_removed_and_what_shapes_the_text_stays() -> None:
    made = transform("RemoveControlCharacters")
    assert after(made, "\ufeffa\x00b\x1b[1;31mred\x1b[0m\u200b c\u202e\td\r\n\x7f\x9b2J") == "abred c\td\r\n"
    assert after(made, "می\u200cخواهم 👩\u200d🔬") == "می\u200cخواهم 👩\u200d🔬"
    assert after(transform("RemoveControlCharacters", keepDirection=True), "a\u200fb\x00") == "a\u200fb"


def test_white_space_is_brought_into_one_form() -> None:
    text = "\n \n\tfirst  line \t\r\nsecond\rthird\u00a0 \n\n\n\n\n   fourth  \n\n \n"
    assert after(transform("NormalizeWhitespace"), text) == "\tfirst  line\nsecond\nthird\n\n\n   fourth\n"
    collapsed = transform("NormalizeWhitespace", blanks="Collapse", maxBlankLines=0)
    assert after(collapsed, text) == "first line\nsecond\nthird\nfourth\n"
    assert after(collapsed, "no end") == "no end"
    assert after(collapsed, " \n \n") == ""


def test_a_blank_at_the_border_of_two_blocks_stays_one(small_blocks: None) -> None:
    line = "word " * 40
    assert after(transform("NormalizeWhitespace", blanks="Collapse"), line) == line.strip()


PAGE = """<!DOCTYPE html><html><head><title>T</title><style>p {color: red}</style></head>
<body><nav><a href="/">Home</a> <a href="/b">More</a></nav>
<h1>A &amp; B</h1><p>First   <b>bold</b> text with <a href="x">one link</a> in it.<p>Second, not closed
<script>if (a < b) { document.write("<p>no</p>") }</script><!-- hidden --><ul><li>one<li>two</ul>
<pre>  kept
    as it is</pre><p><a href="1">only</a> <a href="2">links</a></p><footer>Imprint</footer></body></html>"""


def test_html_becomes_its_text_without_what_is_beside_it() -> None:
    assert after(transform("RemoveMarkup"), PAGE) == (
        "A & B\nFirst bold text with one link in it.\nSecond, not closed\none\ntwo\n  kept\n    as it is\n"
    )
    kept = after(transform("RemoveMarkup", boilerplate="Keep"), PAGE)
    assert kept.startswith("Home More\nA & B\n")
    assert kept.endswith("only links\nImprint\n")


@pytest.mark.parametrize(
    "text", ['print("<p>not a page</p>")\n', "a < b and c > d\n", "<notes>\n", "plain\n", '"""<div>"""\n']
)
def test_what_does_not_begin_as_html_stays_as_it_is(text: str) -> None:
    assert after(transform("RemoveMarkup"), text) == text


def test_each_document_is_html_if_that_is_said() -> None:
    assert (
        after(transform("RemoveMarkup", documents="All"), "a <b>fragment</b><br>and a line")
        == "a fragment\nand a line\n"
    )


BROKEN_MARKUP = [
    "<p>",
    "</p>",
    "<",
    "&",
    "&amp;",
    ";",
    "a b",
    "\n",
    "<script>",
    "</script>",
    "<!--",
    "-->",
    "<![",
    "<a x='",
]


@given(st.lists(st.sampled_from(BROKEN_MARKUP)))
@settings(max_examples=80)
def test_no_markup_however_broken_ends_the_reader_and_pieces_do_not_matter(parts: list[str]) -> None:
    made = transform("RemoveMarkup", documents="All")
    assert after(made, *parts) == after(made, "".join(parts))


@pytest.mark.parametrize("sign", ["<a", "<!--", "<a x='", "<![", "<div>", "<table>", "</", "<p><b>", "&", "<script>"])
def test_broken_markup_is_read_to_its_end(sign: str) -> None:
    """In a second or two: Python's parser, and a tree that is too deep, take minutes."""
    text = after(transform("RemoveMarkup", documents="All"), "<p>begin</p>" + sign * 50_000)
    assert text.startswith("begin\n")


def test_a_page_of_many_blocks_is_read_as_one() -> None:
    page = "<body>" + "<p>a line of text\n" * 40_000 + "<script>\n" + "x();\n" * 300_000 + "</script><p>end</body>"
    text = after(transform("RemoveMarkup"), page)
    assert text.splitlines() == ["a line of text"] * 40_000 + ["end"]


def test_a_comment_that_never_ends_takes_no_memory() -> None:
    made = transform("RemoveMarkup", documents="All")
    (one,) = made.documents([blocks_document("<p>begin</p><!-- ", "x" * 999 + "\n", 5_000)])
    assert b"".join(one.pieces()).startswith(b"begin\n")


def blocks_document(first: str, then: str, times: int) -> Any:
    from costopt_trainer.data.documents import Document

    return Document("a", lambda: iter([first.encode(), *[then.encode()] * times]))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("we recieve teh langauge", "we receive teh language"),  # three letters are too few
        ("Recieve RECIEVE reCieve", "Recieve RECIEVE reCieve"),
        ("recieve@example.org recieve_it recieve(x) recieve=1 a.recieve recieve.py", None),
        ("definately, definately.", "definitely, definitely."),
        ("xqzzyvw", None),
    ],
)
def test_words_in_small_letters_become_the_nearest_word(wrong: str, right: str | None) -> None:
    assert after(MADE["CorrectSpelling {}"][1], wrong) == (wrong if right is None else right)


def test_another_language_has_its_own_dictionary() -> None:
    assert after(transform("CorrectSpelling", language="de"), "natürlihc") == "natürlich"
    assert after(transform("CorrectSpelling", language="de"), "natürlich haben") == "natürlich haben"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("write to jane.doe+x@mail.example.co.uk.", "write to [email]."),
        ("<jürgen@exämple.de>", "<[email]>"),
        ("a@b.co+x@y.org", "[email][email]"),
        ("call +49 (30) 1234-5678 or (212) 555-0123, 1-800-555-0199", "call [phone] or [phone], [phone]"),
        ("from 192.168.0.1:8080 to 2001:db8::8a2e:370:7334", "from [ip]:8080 to [ip]"),
        ("pay 4111 1111 1111 1111 or 378282246310005 or 3782 822463 10005", "pay [card] or [card] or [card]"),
    ],
)
def test_personal_data_is_masked(text: str, told: str) -> None:
    assert masked(text) == told


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # a wrong check digit
        "version 1.2.3.4.5, 300.1.1.1 and 12:30:45, std::vector a::b 00:1b:44:11:3a:b7",
        "6 12 24 48 96 192 384 768 1536 3072",
        "x = a+12345, 2024-11-29, 3.14159265358979, 1234567890123456789012",
        "@property and me@home, a @ b.c",
    ],
)
def test_other_numbers_and_signs_are_left(text: str) -> None:
    assert masked(text) == text


@given(st.integers(10**11, 10**18 - 1))
def test_one_check_digit_of_ten_is_right_and_neighbours_exchanged_are_not(number: int) -> None:
    valid = [digit for digit in range(10) if passes_luhn(f"{number}{digit}")]
    assert len(valid) == 1
    text = f"{number}{valid[0]}"
    for place in range(len(text) - 1):
        first, second = text[place], text[place + 1]
        if first != second and {first, second} != {"0", "9"}:
            assert not passes_luhn(text[:place] + second + first + text[place + 2 :])


@given(st.text(st.sampled_from(ALPHABETS["MaskPersonalData"] + "fE/"), max_size=80))
@example("1.1.1.1")
@example("fe80::1")
@example("+1234567")
@example("a@b.org\n378282246310005")
def test_lines_that_are_passed_over_have_nothing_to_be_masked(text: str) -> None:
    assert masked(text) == "\n".join(_masked(line, ALL_KINDS) for line in text.split("\n"))


def test_only_the_kinds_that_are_named_are_masked() -> None:
    text = "a@b.org 10.0.0.1"
    assert after(transform("MaskPersonalData", kinds=["IP"]), text) == "a@b.org [ip]"


@pytest.mark.parametrize("sign", ["a", "1", "1-", "1 ", "a.", "@", ":", "+1", "(1)", "a@", "1."])
def test_patterns_take_no_square_of_the_text(sign: str) -> None:
    assert len(masked(sign * 100_000)) <= 200_000 * 8
