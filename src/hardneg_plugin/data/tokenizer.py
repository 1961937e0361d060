"""Reports as token ids: the released word vocabularies, or any Hugging Face tokenizer behind the same interface."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from tokenizers import Tokenizer as Backend

from hardneg_plugin.data.cleaning import CLEANINGS
from hardneg_plugin.data.report_sections import joined_marks
from hardneg_plugin.data.texts import lacks_spaces
from hardneg_plugin.errors import UserError, first_line

UNKNOWN_WORD = "<unk>"


class Tokenizer(Protocol):
    """Ids 1..`vocab_size` are tokens; 0 begins, ends and pads, so an output layer has `vocab_size + 1` rows."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens V, without the 0."""
        ...

    def clean(self, text: str) -> str:
        """The text in the form that models learn and scores compare with."""
        ...

    def encode(self, text: str) -> list[int]:
        """`[0, ids..., 0]` of the cleaned text."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first 0; leading zeros are skipped."""
        ...

    def state(self) -> dict[str, Any]:
        """Plain values that `tokenizer_from_state` takes."""
        ...


@dataclass(frozen=True)
class WordTokenizer:
    """One id per word, as released: word i of the vocabulary has id i + 1, a word outside it reads `<unk>`.

    Args:
        vocabulary: distinct words, `<unk>` among them.
        cleaning: a name in `CLEANINGS`.

    Raises:
        UserError: the cleaning is unknown, or the vocabulary has no words, no `<unk>` or repeats.

    >>> tokenizer = WordTokenizer.from_reports(["1. Heart size is normal. 2. No effusion."], min_count=1)
    >>> tokenizer.clean("Heart size is large.")
    'heart size is large .'
    >>> tokenizer.encode("Heart size is large."), tokenizer.decode([0, 4, 8, 1, 0, 3])
    ([0, 4, 8, 5, 2, 1, 0], 'heart size .')
    """

    vocabulary: tuple[str, ...] = field(repr=False)
    cleaning: str = "iu_xray"

    def __post_init__(self) -> None:
        if self.cleaning not in CLEANINGS:
            raise UserError(f"Expected `cleaning` to be one of {sorted(CLEANINGS)}, but got {self.cleaning!r}.")
        if len(self.vocabulary) < 2 or UNKNOWN_WORD not in self.vocabulary:
            raise UserError(
                f"Expected a vocabulary of {UNKNOWN_WORD!r} and at least one more word, but got {self.vocabulary[:5]}."
            )
        if len(self._ids) != len(self.vocabulary):
            raise UserError("Expected a vocabulary of distinct words, but got repeats.")

    @classmethod
    def from_reports(cls, reports: Sequence[str], min_count: int = 3, cleaning: str = "iu_xray") -> "WordTokenizer":
        """The words seen at least `min_count` times in the cleaned reports, and `<unk>`, sorted.

        Args:
            reports: the training reports as written.
            min_count: >= 1.
            cleaning: a name in `CLEANINGS`.

        Raises:
            UserError: an argument is invalid, no word is seen that often, or the reports have no spaces between words.
        """
        if min_count < 1:
            raise UserError(f"Expected `min_count` >= 1, but got {min_count}.")
        if cleaning not in CLEANINGS:
            raise UserError(f"Expected `cleaning` to be one of {sorted(CLEANINGS)}, but got {cleaning!r}.")
        if lacks_spaces(reports):
            raise UserError(
                f"Expected spaces between the words of reports, but got {reports[0][:20]!r} and others in a script without. Take "
                "tokenizer=huggingface with a tokenizer of that language, or put spaces between words or characters."
            )
        counts = Counter(word for report in reports for word in CLEANINGS[cleaning](report).split())
        words = {word for word, count in counts.items() if count >= min_count}
        if not words:
            raise UserError(
                f"Expected a word seen at least `min_count`={min_count} times, but {len(reports)} reports have none. "
                "Lower `min_count`, or check that these are the training reports."
            )
        return cls(tuple(sorted(words | {UNKNOWN_WORD})), cleaning)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "WordTokenizer":
        """The tokenizer whose `state()` this was."""
        return cls(tuple(state["vocabulary"]), state["cleaning"])

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.vocabulary, start=1)}

    @property
    def vocab_size(self) -> int:
        """Number of words V, including `<unk>`, without the 0."""
        return len(self.vocabulary)

    def clean(self, text: str) -> str:
        """The released cleaning of this data set, identical to the last blank."""
        return CLEANINGS[self.cleaning](text)

    def encode(self, text: str) -> list[int]:
        """`[0, ids..., 0]` of the cleaned text."""
        unknown = self._ids[UNKNOWN_WORD]
        return [0, *(self._ids.get(word, unknown) for word in self.clean(text).split()), 0]

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first 0; leading zeros are skipped."""
        return " ".join(self.vocabulary[index - 1] for index in _until_end(ids, self.vocab_size))

    def state(self) -> dict[str, Any]:
        """Plain values that `tokenizer_from_state` takes."""
        return {"kind": "words", "vocabulary": list(self.vocabulary), "cleaning": self.cleaning}


class HuggingFaceTokenizer:
    """Any fast tokenizer of the Hugging Face hub or of a local folder, its ids moved up by one to make room for the 0.

    The 0 replaces its begin, end and padding tokens.

    Args:
        backend: the tokenizer.

    >>> from tokenizers import models, pre_tokenizers
    >>> backend = Backend(models.WordLevel({"no": 0, "effusion": 1, "?": 2}, unk_token="?"))
    >>> backend.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = HuggingFaceTokenizer(backend)
    >>> tokenizer.encode("no  effusion"), tokenizer.decode([0, 1, 2, 0])
    ([0, 1, 2, 0], 'no effusion')
    """

    def __init__(self, backend: Backend) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend

    @classmethod
    def from_reports(cls, reports: Sequence[str], name_or_path: str) -> "HuggingFaceTokenizer":
        """As `WordTokenizer.from_reports`, for configs.

        Args:
            reports: not read, since the vocabulary is given.
            name_or_path: a name on the hub, or a folder with a `tokenizer.json`.

        Raises:
            UserError: it cannot be loaded, or is not a fast tokenizer.
        """
        return cls(_load_backend(name_or_path))

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "HuggingFaceTokenizer":
        """The tokenizer whose `state()` this was; no file is read."""
        return cls(Backend.from_str(state["json"]))

    @cached_property
    def vocab_size(self) -> int:
        """Number of tokens V, including added ones, without the 0."""
        # The largest id rather than the count: vocabularies with holes exist, and an output row is looked up by id.
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    def clean(self, text: str) -> str:
        """The text with blanks and line breaks collapsed."""
        return " ".join(text.split())

    def encode(self, text: str) -> list[int]:
        """`[0, ids + 1..., 0]` of the cleaned text."""
        encoding = self._backend.encode(self.clean(text), add_special_tokens=False)
        return [0, *(index + 1 for index in encoding.ids), 0]

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first 0, without special tokens; leading zeros are skipped."""
        tokens = [index - 1 for index in _until_end(ids, self.vocab_size)]
        return joined_marks(self.clean(self._backend.decode(tokens, skip_special_tokens=True)))

    def state(self) -> dict[str, Any]:
        """Plain values that `tokenizer_from_state` takes: the whole tokenizer, so that a checkpoint needs no other file."""
        return {"kind": "huggingface", "json": self._backend.to_str()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HuggingFaceTokenizer) and self.state() == other.state()

    __hash__ = None  # type: ignore[assignment]


def tokenizer_from_state(state: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer whose `state()` this was.

    Raises:
        UserError: the kind of the state is unknown.
    """
    if state.get("kind") == "words":
        return WordTokenizer.from_state(state)
    if state.get("kind") == "huggingface":
        return HuggingFaceTokenizer.from_state(state)
    raise UserError(f"Expected a tokenizer state of kind 'words' or 'huggingface', but got {state.get('kind')!r}.")


def _until_end(ids: Iterable[int], vocab_size: int) -> list[int]:
    tokens: list[int] = []
    for index in map(int, ids):
        if not 0 <= index <= vocab_size:
            raise ValueError(f"Expected token ids in [0, {vocab_size}], but got {index}.")
        if index:
            tokens.append(index)
        elif tokens:
            break
    return tokens


def _load_backend(name_or_path: str) -> Backend:
    from transformers import AutoTokenizer  # seconds to import, and only needed here

    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"Expected a Hugging Face tokenizer under {name_or_path!r}, but it could not be loaded ({first_line(error)}). "
            "Give a folder that holds a tokenizer.json, or a name that is on the hub or in its local cache."
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Backend):
        raise UserError(f"Expected a fast tokenizer under {name_or_path!r}, but got {type(tokenizer).__name__}.")
    return backend


def check_vocabulary(checkpoint: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Check that a checkpoint was trained with a tokenizer: under another, its weights stand for other tokens.

    Args:
        checkpoint: with the state of its tokenizer under "tokenizer".
        tokenizer: of the data.

    Raises:
        UserError: it was trained with another tokenizer, or has none.
    """
    state, expected = checkpoint.get("tokenizer"), tokenizer.state()
    if state == expected:
        return
    if state is None:
        raise UserError("Expected a checkpoint of hardneg-train, but got one without a vocabulary.")
    got, wanted = (f"{each.get('kind')}, {len(each.get('vocabulary', ()))} words" for each in (state, expected))
    raise UserError(
        f"Expected a checkpoint trained with the vocabulary of this data ({wanted}), but got one with another ({got}). Use the "
        "data it was trained on, or train anew."
    )
