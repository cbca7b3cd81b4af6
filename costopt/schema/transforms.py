"""What is done to documents before they become tokens: one class of settings for each transform, and their union.

Those that change text: NormalizeUnicode, FixMojibake, RemoveControlCharacters, NormalizeWhitespace, RemoveMarkup,
CorrectSpelling, MaskPersonalData. Those that drop documents: FilterQuality, FilterLanguage, RemoveDuplicates.
"""

from typing import Annotated, Literal

from pydantic import Field

from costopt.schema.base import Rule, Strict
from costopt.schema.unions import tagged_union

Percent = Annotated[int, Field(ge=0, le=100)]
# fmt: off
Language = Literal[
    "ace", "af", "am", "an", "ar", "ary", "arz", "as", "az", "ba", "bcl", "be", "bg", "bn", "br", "bs", "ca", "crh",
    "cs", "cy", "da", "de", "dz", "el", "en", "eo", "es", "et", "eu", "ext", "fa", "fi", "fo", "fr", "fuv", "fy", "ga",
    "gcf", "gcr", "gd", "gl", "gom", "grc", "gu", "gug", "guw", "ha", "hbo", "he", "hi", "hr", "ht", "hu", "hy", "id",
    "ig", "is", "it", "ja", "jv", "ka", "kab", "kik", "kk", "km", "kn", "ko", "ku", "ky", "la", "lb", "lg", "lij",
    "ln", "lo", "lt", "ltg", "lv", "mg", "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "nn", "no", "nso", "oc",
    "om", "or", "pa", "pcm", "pl", "ps", "pt", "qu", "ro", "ru", "rw", "sa", "sdh", "se", "si", "sk", "sl", "sn", "so",
    "sq", "sr", "st", "sv", "sw", "ta", "te", "tg", "th", "tk", "tl", "tr", "tt", "ug", "uk", "ur", "uz", "uzs", "vec",
    "vi", "vo", "wa", "wuu", "xh", "yo", "yue", "zh", "zu", "zxx",
]
# fmt: on
"""The languages that py3langid tells apart. Its own list comes with a model that takes a second to read."""
Words = Annotated[int, Field(ge=0, le=10**9)]


class NormalizeUnicode(Strict):
    """One form for characters that can be written in several ways (Unicode Standard Annex #15)."""

    form: Literal["NFC", "NFD", "NFKC", "NFKD"] = "NFC"
    """NFC: composed, as most text is; nothing that a reader sees changes. NFD: decomposed. NFKC, NFKD: ligatures, wide
    letters, superscripts and the like become plain ones besides, which a reader does see."""


class FixMojibake(Strict):
    """Text that was decoded in the wrong encoding, such as `schÃ¶n`, becomes what it was (`schön`), line by line."""

    unescape_html: bool = False
    """Whether `&amp;` and its like become the characters that they stand for, in lines without a `<`."""


class RemoveControlCharacters(Strict):
    """Characters that nobody sees are removed: control characters except tab and line ends, a terminal's escape
    sequences, byte-order marks, zero-width spaces, and those that turn the direction of text."""

    keep_direction: bool = False
    """Whether marks of direction stay, which text that mixes Hebrew or Arabic with Latin may need."""


class NormalizeWhitespace(Strict):
    """Line ends become line feeds, blanks at the end of a line go, and blank lines in a row are limited."""

    blanks: Literal["Keep", "Collapse"] = "Keep"
    """Keep: blanks within a line stay, so that code keeps its indentation. Collapse: tabs, blanks of any width and
    several in a row become one blank, and none begins a line."""
    max_blank_lines: Annotated[int, Field(ge=0, le=100)] = 2
    """Blank lines in a row that stay."""


class RemoveMarkup(Strict):
    """HTML becomes its text: a line for each block, without scripts, styles and comments."""

    documents: Literal["Detected", "All"] = "Detected"
    """Detected: documents that begin as HTML does, with a tag of it or a doctype; others stay as they are. All: each
    document is HTML, also a fragment in the midst of which tags stand."""
    boilerplate: Literal["Remove", "Keep"] = "Remove"
    """Remove: navigation, headers, footers, forms and asides go, and so do blocks most of whose text is links."""


class CorrectSpelling(Strict):
    """Words that the dictionary lacks become the most frequent word that differs by one letter, or by two neighbours
    exchanged. Only words in small letters are looked at, so names stay. It also changes what is right and rare: look at
    its examples (`costopt data`) before you train."""

    language: Literal["en", "de", "es", "fr", "it", "nl", "pt"] = "en"
    """Whose dictionary."""
    min_letters: Annotated[int, Field(ge=2, le=64)] = 4
    """Shorter words are left alone: they differ by one letter from too many others."""


class MaskPersonalData(Strict):
    """Addresses and numbers of people are replaced by a word such as `[email]`."""

    kinds: Annotated[list[Literal["Email", "Phone", "IP", "Card"]], Field(min_length=1, max_length=4)] | None = None
    """Email: mail addresses. Phone: numbers with a country code, or in groups as they are dialled in North America. IP:
    addresses of version 4 and 6. Card: 13 to 19 digits whose check digit is right (Luhn). None means all."""


class FilterQuality(Strict):
    """Documents that are no running text are dropped, by the rules of Gopher (Rae et al., arXiv 2112.11446, appendix
    A1.1) and with its bounds. They are meant for English prose: of source code they leave little."""

    min_words: Words = 50
    """Documents of fewer words go."""
    max_words: Words = 100_000
    """Documents of more words go. Of a document that is larger than a MiB only the first MiB is looked at."""
    min_mean_word_length: Words = 3
    """Characters of a word, as a mean: documents below go."""
    max_mean_word_length: Words = 10
    """Characters of a word, as a mean: documents above go."""
    max_symbols_percent: Percent = 10
    """Signs `#`, and ellipses, per hundred words."""
    max_digits_percent: Percent = 20
    """Digits among the characters that are not blank. Not one of Gopher's."""
    min_alphabetic_words_percent: Percent = 80
    """Words with a letter."""
    max_bullet_lines_percent: Percent = 90
    """Lines that begin with a bullet."""
    max_ellipsis_lines_percent: Percent = 30
    """Lines that end with an ellipsis."""
    min_stop_words: Words = 2
    """How many of the, be, to, of, and, that, have, with must be there. 0 for other languages than English."""
    max_repeated_lines_percent: Percent = 30
    """Lines, and paragraphs, that stood before in the same document."""
    max_repeated_characters_percent: Percent = 20
    """Characters in such lines, and in such paragraphs."""
    repeated_phrases: Literal["Gopher", "Keep"] = "Gopher"
    """Gopher: of characters, at most 20 percent in the most frequent pair of words, 18 of three words, 16 of four, and
    from 15 percent in phrases of five words that come again down to 10 in those of ten. Keep: phrases are not
    counted."""

    rules = (
        Rule(
            cel="self.minWords <= self.maxWords",
            message="minWords must be at most maxWords",
            holds=lambda data: data["minWords"] <= data["maxWords"],
        ),
        Rule(
            cel="self.minMeanWordLength <= self.maxMeanWordLength",
            message="minMeanWordLength must be at most maxMeanWordLength",
            holds=lambda data: data["minMeanWordLength"] <= data["maxMeanWordLength"],
        ),
    )


class FilterLanguage(Strict):
    """Documents in other languages are dropped. What is looked at is passages of about 500 characters, at most 32 of
    them, spread over the first MiB of a document."""

    languages: Annotated[list[Language], Field(min_length=1, max_length=32)]
    """The languages that stay, as two letters (ISO 639-1), or three where there are none of two (ISO 639-3); zxx: what
    is in none."""
    min_percent: Annotated[int, Field(ge=1, le=100)] = 50
    """Percent of the passages that must be in one of them."""


class RemoveDuplicates(Strict):
    """Of documents that are equal, or nearly so, the first stays. Held-out documents are looked at before those to
    train on, so that none to train on is nearly equal to one held out."""

    similarity_percent: Annotated[int, Field(ge=50, le=100)] = 80
    """Phrases that two documents have in common, of all that either has (Jaccard), from which on they are nearly equal:
    as MinHash estimates it. 100: only equal documents are dropped."""
    phrase_words: Annotated[int, Field(ge=1, le=32)] = 5
    """Words of a phrase. Fewer find more, also of what is only on the same subject."""
    permutations: Annotated[int, Field(ge=32, le=1024)] = 128
    """Numbers kept of each document, 4 bytes each. More estimate better: the error is about 1 / sqrt(permutations)."""


@tagged_union
class Transform(Strict):
    """One change of documents before they become tokens."""

    type: Literal[
        "NormalizeUnicode",
        "FixMojibake",
        "RemoveControlCharacters",
        "NormalizeWhitespace",
        "RemoveMarkup",
        "CorrectSpelling",
        "MaskPersonalData",
        "FilterQuality",
        "FilterLanguage",
        "RemoveDuplicates",
    ]
    """Which of the settings below is used."""
    normalize_unicode: NormalizeUnicode | None = None
    """Settings of NormalizeUnicode. None means its defaults."""
    fix_mojibake: FixMojibake | None = None
    """Settings of FixMojibake. None means its defaults."""
    remove_control_characters: RemoveControlCharacters | None = None
    """Settings of RemoveControlCharacters. None means its defaults."""
    normalize_whitespace: NormalizeWhitespace | None = None
    """Settings of NormalizeWhitespace. None means its defaults."""
    remove_markup: RemoveMarkup | None = None
    """Settings of RemoveMarkup. None means its defaults."""
    correct_spelling: CorrectSpelling | None = None
    """Settings of CorrectSpelling. None means its defaults."""
    mask_personal_data: MaskPersonalData | None = None
    """Settings of MaskPersonalData. None means its defaults."""
    filter_quality: FilterQuality | None = None
    """Settings of FilterQuality. None means its defaults."""
    filter_language: FilterLanguage | None = None
    """Settings of FilterLanguage, which must be given."""
    remove_duplicates: RemoveDuplicates | None = None
    """Settings of RemoveDuplicates. None means its defaults."""
