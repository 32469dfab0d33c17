"""Whether an answer is right: the offline rule judge and the caption metrics.

The rule judge needs no service and no model, so its verdicts can be made again
anywhere. They are never comparable with those of a language model that judges.
"""

import dataclasses
import re
from collections.abc import Sequence

JUDGE = 'rule'
# The status of an answer that was given, but names nothing that counts.
UNPARSED = 'unparsed'

_ARTICLES = {'a', 'an', 'the'}
_NUMBERS = {
    word: str(number)
    for number, words in enumerate((
        'zero', 'one once', 'two twice', 'three thrice', 'four', 'five', 'six',
        'seven', 'eight', 'nine', 'ten', 'eleven', 'twelve',
    ))
    for word in words.split()
}  # fmt: skip
_POLARITIES = {'yes': True, 'true': True, 'no': False, 'false': False}
# How people say that something cannot be known, normalised.
_REFUSALS = tuple(
    phrase.split()
    for phrase in (
        'cannot be determined', 'can not be determined', 'cant be determined',
        'cannot be known', 'can not be known', 'cannot be said',
        'cannot tell', 'can not tell', 'cant tell', 'cannot say', 'cannot know',
        'cannot determine', 'can not determine', 'cannot be told',
        'cannot be seen', 'cannot see', 'cant be known', 'cant be seen',
        'cant say', 'cant see', 'dont know', 'do not know', 'not visible',
        'not clear', 'not possible to', 'impossible to', 'no way to',
        'not enough information', 'not enough context', 'insufficient',
        'without more context', 'without context', 'without further',
        'does not show', 'do not show', 'does not say', 'not shown',
        'not specified', 'not mentioned', 'not given', 'unknown', 'unclear',
        'undetermined', 'says nothing about',
    )
)  # fmt: skip
# 'B)', '(B)', 'B.', 'B:' and 'b)', but not the 'a' or the 'e.g.' of a sentence.
_OPTION = re.compile(r'(?<!\w)\(?([A-Z](?=[).:])|[a-z](?=\)))[).:](?=\s|$)')
_MIN_F1 = 0.5


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a judge says about one prediction.

  Attributes:
    id: the item's.
    correct: None where there is no verdict.
    score: 0 to 5; None where there is no verdict.
    status: `ok`, or `UNPARSED`, which is wrong; or why there is no verdict:
      `malformed`, `refused`, `failed`.
    judge: who says so.
    reply: what the judge said, word for word; empty for the rule judge.
  """

  id: str
  correct: bool | None
  score: float | None
  status: str = 'ok'
  judge: str = JUDGE
  reply: str = ''


def judge(
  item_id: str,
  prediction: str,
  reference: str,
  *,
  question: str = '',
  fact: str = '',
  choices: Sequence[str] = (),
  answer_format: str = '',
) -> Verdict:
  """Judges one prediction by rules.

  With a fact, a prediction is right when the choices that it names are exactly
  the parts of the fact:

      choices      left, right, left arm, right arm    fact  left arm
      right        'With the left arm.'      wrong     'The left or right arm.'

  Without one, the rule follows from the format: the same letter or option text;
  the same first yes, no, true or false; the same first number; a refusal where
  the reference refuses; else a token F1 of at least 0.5.

  Args:
    item_id: is written into the verdict.
    prediction: what the model said; empty gets the status `failed`.
    reference: the answer to compare with.
    question: holds the options of lettered choices, and tells counts.
    fact: parts that must be named, joined by '; '; see records.Turn.
    choices: all that could have been named.
    answer_format: `multiple_choice`, `yes_no`, `true_false`, `count` or `free`;
      empty finds it out from question and reference.
  """
  if not prediction.strip():
    return Verdict(item_id, None, None, 'failed')
  if fact:
    wanted = {tuple(normalise(part)) for part in fact.split(';')}
    found = named(prediction, (*choices, *fact.split(';')))
    return _closed(item_id, found == wanted)
  words, target = normalise(prediction), normalise(reference)
  kind = answer_format or _format(question, reference)
  if kind == 'multiple_choice':
    return _closed(item_id, _same_option(prediction, reference, question))
  if kind in ('yes_no', 'true_false') and _polarity(target) is not None:
    return _closed(item_id, _polarity(words) is _polarity(target))
  if kind == 'count' and _number(target) is not None:
    return _closed(item_id, _number(words) == _number(target))
  if _refuses(target):
    return _closed(item_id, _refuses(words))
  f1 = token_f1(words, target)
  return Verdict(item_id, f1 >= _MIN_F1, float(round(5 * f1)))


def normalise(text: str) -> list[str]:
  """Words in lower case, no punctuation or articles, numbers as digits.

  'The person jumps three times.' -> ['person', 'jumps', '3']; 'once' and 'one
  time' are both '1'.
  """
  words = re.findall(r'[^\W_]+', re.sub(r"['’]", '', text.lower()))
  words = [_NUMBERS.get(word, word) for word in words if word not in _ARTICLES]
  return [
    word
    for before, word in zip([''] + words, words, strict=False)
    if not (word in ('time', 'times') and before.isdecimal())
  ]


def named(text: str, choices: Sequence[str]) -> set[tuple[str, ...]]:
  """The choices that stand in a text as whole words, normalised.

  Longer choices come first and use up their words, so that 'sit down' does not
  also name 'sit'.
  """
  left: list[str | None] = list(normalise(text))
  found = set()
  phrases = {tuple(normalise(choice)) for choice in choices} - {()}
  for phrase in sorted(phrases, key=lambda p: (-len(p), p)):
    size = len(phrase)
    for start in range(len(left) - size + 1):
      if tuple(left[start : start + size]) == phrase:
        found.add(phrase)
        left[start : start + size] = [None] * size
  return found


def token_f1(words: Sequence[str], target: Sequence[str]) -> float:
  """F1 of two bags of words, 0 to 1."""
  left = list(target)
  common = 0
  for word in words:
    if word in left:
      left.remove(word)
      common += 1
  return 2 * common / (len(words) + len(target)) if common else 0.0


def caption_metrics(
  predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
  """BLEU-1 to 4, ROUGE-L and CIDEr by pycocoevalcap.

  Texts are split at blanks and otherwise left alone: no PTB tokenizer, case is
  kept. This is what the published tables of HumanML3D captions do.

  Args:
    predictions: one a case.
    references: several a case. CIDEr weighs words by how many cases' references
      hold them, so its value belongs to this set of cases.

  Returns:
    BLEU_1 ... BLEU_4, ROUGE_L, all 0 to 1, and CIDEr, 0 to 10; papers print all
    of them times 100.
  """
  from pycocoevalcap.bleu.bleu import Bleu
  from pycocoevalcap.cider.cider import Cider
  from pycocoevalcap.rouge.rouge import Rouge

  if len(predictions) != len(references) or not predictions:
    raise ValueError(
      'Expected one prediction for each case, found '
      f'{len(predictions)} for {len(references)} cases.'
    )
  found = {i: [text] for i, text in enumerate(predictions)}
  wanted = {i: list(texts) for i, texts in enumerate(references)}
  bleu, _ = Bleu(4).compute_score(wanted, found, verbose=0)
  rouge, _ = Rouge().compute_score(wanted, found)
  cider, _ = Cider().compute_score(wanted, found)
  metrics = {f'BLEU_{n}': value for n, value in enumerate(bleu, 1)}
  metrics |= {'ROUGE_L': rouge, 'CIDEr': cider}
  return {name: float(value) for name, value in metrics.items()}


def rouge_l(
  predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
  """ROUGE-L of each case alone, 0 to 1; see `caption_metrics`."""
  from pycocoevalcap.rouge.rouge import Rouge

  rouge = Rouge()
  return [
    float(rouge.calc_score([text], list(wanted)))
    for text, wanted in zip(predictions, references, strict=True)
  ]


def _closed(item_id: str, is_right: bool) -> Verdict:
  return Verdict(item_id, is_right, 5.0 if is_right else 0.0)


def _format(question: str, reference: str) -> str:
  """What kind of answer a reference is, as far as one can see."""
  target = normalise(reference)
  if _OPTION.match(reference.strip()) and len(_options(question)) > 1:
    return 'multiple_choice'
  if target and target[0] in _POLARITIES:
    return 'yes_no'
  if re.match(r'how (many|often)\b', question.strip().lower()):
    return 'count'
  return 'free'


def _options(question: str) -> dict[str, list[str]]:
  """Letter -> normalised text of the options that stand in a question."""
  parts = _OPTION.split(question)
  return {
    letter.upper(): normalise(text)
    for letter, text in zip(parts[1::2], parts[2::2], strict=True)
  }


def _same_option(prediction: str, reference: str, question: str) -> bool:
  wanted = _letter(reference)
  letter = _letter(prediction)
  if letter and wanted:
    return letter == wanted
  options = _options(question)
  text = options.get(wanted) or normalise(_OPTION.sub(' ', reference))
  others = [' '.join(o) for o in options.values() if o != text]
  return named(prediction, [' '.join(text), *others]) == {tuple(text)}


def _letter(text: str) -> str:
  """'B', 'b)', '(B) sits', 'The answer is B.' -> 'B'; else nothing."""
  text = text.strip()
  alone = re.fullmatch(r'\(?([A-Za-z])[).:]?', text)
  said = re.search(r'\b(?:answer|option|choice)(?: is)?:? \(?([A-Z])\b', text)
  match = alone or _OPTION.search(text) or said
  return match.group(1).upper() if match else ''


def _polarity(words: Sequence[str]) -> bool | None:
  """The first yes, no, true or false; nothing in 'there is no way to know'."""
  if words and words[0] not in _POLARITIES and _refuses(words):
    return None
  return next((_POLARITIES[w] for w in words if w in _POLARITIES), None)


def _number(words: Sequence[str]) -> int | None:
  return next((int(w) for w in words if w.isdecimal()), None)


def _refuses(words: Sequence[str]) -> bool:
  return any(
    list(words[i : i + len(phrase)]) == phrase
    for phrase in _REFUSALS
    for i in range(len(words) - len(phrase) + 1)
  )
