"""Which sides and directions a text claims, clause by clause.

    'walks backward, then waves with the left hand'
      -> way backward, arm left

Only what is plainly said is read: no clause that denies, offers a choice or
guesses, no limb that is held, touched or stood on, no turn of the head. What is
not read is not checked; what is read wrongly would be flagged wrongly.
"""

import re
from typing import NamedTuple

OPPOSITES = {
  'left': 'right',
  'right': 'left',
  'forward': 'backward',
  'backward': 'forward',
}


class Claim(NamedTuple):
  """Something that a text says of a motion.

  Attributes:
    kind: `arm` or `leg`, which moves; `stance`, the leg stood on; `turn`;
      `side` and `way`, where somebody goes, and `fall`, where they fall, as
      seen from where they face.
    value: a key of `OPPOSITES`.
    words: the clause.
    is_ordered: what is said before happens before.
  """

  kind: str
  value: str
  words: str
  is_ordered: bool = True


_SIDE = r'(?P<side>left|right)'
_OWN = r'(?:(?:his|her|their|its|the|a|one) )?'
_ARM = r'(?:arm|forearm|hand|fist|palm|elbow|wrist)'
_LEG = r'(?:leg|foot|knee)'
_LIMBS = {'arm': _ARM, 'leg': _LEG}
# Stems of what a limb does when it moves; not hold, keep, rest, touch, put.
_MOVES = {
  'arm': r'(?:wav|rais|lift|punch|jab|throw|threw|toss|pitch|swing|swung|reach|'
         r'extend|stretch|push|pull|shak|shook|rotat|circl|mov|slap|hit|point|'
         r'strik|beckon|salut|greet|flap)\w*',
  'leg': r'(?:kick|lift|rais|swing|swung|extend|stretch|mov|shak|shook|stomp|'
         r'rotat|circl)\w*',
}  # fmt: skip
_STANDS = r'(?:hop|stand|stood|balanc)\w*'
_TURNS = r'(?:turn|spin|spun|rotat|pivot|twirl|curv|veer|swivel)\w*'
_GOES = (
  r'(?:walk|step|sidestep|jog|run|ran|shuffl|hop|jump|leap|skip|strid|strod|'
  r'march|sprint|pac|limp|stumbl|stagger)\w*'
)
# `moves slowly to`, but not `moves it to`.
_SHIFTS = r'mov\w*(?: \w+ly)?'
# `to his left`, `left`, `leftwards`, but not `left foot` or `left of`.
_WHERE = (
  r'(?:(?:to|towards?) (?:the |his |her |their |its )?)?'
  r'(?P<side>left|right)(?:wards?)?'
  r'(?! (?:\w+ )?(?:arms?|forearms?|hands?|fists?|palms?|elbows?|wrists?|legs?|'
  r'foot|feet|knees?|shoulders?|hips?|ankles?|toes?|heels?|thighs?|ears?|eyes?|'
  r'corner|of|around|away|back|up|down|in|before|after|at)\b)'
)
_WAY = r'(?P<way>forward|backward)s?\b'
_FALLS = r'(?:fall|fell)\w*'
# `forward, backward and sideways`: somewhere, that is all.
_LIST = re.compile(
  r'\b(?:to (?:the )?)?(?:left|right|forwards?|backwards?)'
  r'(?:,? and|,? or|,) (?:to (?:the )?)?'
  r'(?:left|right|forwards?|backwards?|sideways)\b'
)
_FEW = r'(?: \w+){0,3}? '
_CLOCK = r'(?P<clock>(?:counter|anti)[ -]?clockwise|clockwise)'

_PATTERNS = [
  *(
    (kind, re.compile(pattern))
    for kind, limb in _LIMBS.items()
    for pattern in (
      rf'\b{_MOVES[kind]}(?: (?:up|out))? {_OWN}{_SIDE} {limb}\b(?! side)',
      rf'\b{_MOVES[kind]}{_FEW}(?:with|using) {_OWN}{_SIDE} {limb}\b(?! side)',
      # Not `right hand raised`, which may be up all the time.
      rf'\b{_SIDE} {limb} (?:is )?(?=\w+(?:s|ing)\b){_MOVES[kind]}',
    )
  ),
  ('stance', re.compile(rf'\b{_STANDS}{_FEW}on {_OWN}{_SIDE} {_LEG}\b')),
  ('turn', re.compile(rf'\b{_TURNS}(?: \w+){{0,3}}? {_WHERE}')),
  ('turn', re.compile(rf'\b{_SIDE}(?:wards?)? (?:turn|curve|spin)\b')),
  ('turn', re.compile(rf'\b(?:{_TURNS}|{_GOES})(?: \w+){{0,4}}? {_CLOCK}\b')),
  ('side', re.compile(rf'\b(?:{_GOES}(?: \w+){{0,3}}?|{_SHIFTS}) {_WHERE}')),
  ('way', re.compile(rf'\b(?:{_GOES}(?: \w+){{0,3}}?|{_SHIFTS}) {_WAY}')),
  ('fall', re.compile(rf'\b{_FALLS}(?: \w+){{0,3}}? {_WHERE}')),
  ('fall', re.compile(rf'\b{_FALLS}(?: \w+){{0,3}}? {_WAY}')),
]  # fmt: skip
_LEANS = re.compile(r'\b(?:fall|fell|trip|bend|bent|lean)\w*')
# A clause with one of these may say the opposite, or nothing for certain.
_UNSURE = re.compile(
  r"\b(?:not|\w+n't|cannot|no|never|nor|neither|without|or|either|whether|if|"
  r'maybe|might|may|could|would|possibly|perhaps|seem\w*|appear\w*|almost|'
  r'instead|rather|opposite|other|alternat\w*|both|each|from|false)\b'
)
# Questions that an answer of one side completes.
_CHOICE = re.compile(
  r'\b(?:left|right) or (?:to )?(?:the |his |her |their )?(?:left|right)\b'
)
_WHICH = {
  kind: re.compile(
    rf'\bwhich {limb}\b.*\b(?:(?:does|did) \w+.* |(?=\w+(?:s|ing)\b))'
    rf'{_MOVES[kind]}'
  )
  for kind, limb in _LIMBS.items()
}
# Parts of the body that turn where the body does not.
_PARTS = re.compile(
  r'\b(?:head|neck|torso|trunk|waist|hips?|shoulders?|upper|chest|wrists?|'
  r'hands?|arms?|elbows?|legs?|foot|feet|knees?|ankles?|gaze|eyes|face|attention)\b'
)
_CUTS = re.compile(
  r'[.;:,!?|()]|\b(?:and then|then|and|while|whilst|as|before|after|when|until|'
  r'but)\b'
)
# With these, what is said first need not happen first.
_REORDERED = re.compile(
  r'\b(?:before|after(?! that\b)(?!wards?\b)|while|whilst|as|when|previously|'
  r'earlier|last|finally|start\w*|end\w*|again|repeat\w*)\b'
)


def read(text: str) -> list[Claim]:
  """The claims of a text, in its order."""
  text = ' '.join(text.lower().replace('-', ' ').replace('’', "'").split())
  is_ordered = not _REORDERED.search(text)
  text = _LIST.sub('somewhere', text)
  found = []
  for clause in _CUTS.split(text):
    if clause and not _UNSURE.search(clause):
      found += _claims(clause.strip(), is_ordered)
  return [claim for claim in found if not _is_half(claim, found, text)]


def _is_half(claim: Claim, found: list[Claim], text: str) -> bool:
  """Whether the text speaks of the other limb as well, in words not read."""
  if claim.kind not in _LIMBS:
    return False
  named = rf'\b(left|right) {_LIMBS[claim.kind]}'
  read_ = {x.value for x in found if x.kind == claim.kind}
  return not read_ >= set(re.findall(named, text))


def read_turn(question: str, answer: str) -> list[Claim]:
  """The claims of an answer.

  'True.' claims what the question states. 'The left one.' is no claim by
  itself; with 'Which arm waves?' or 'Does he turn left or right?' it is.
  """
  words = re.findall(r"[\w']+", answer.lower())
  if words[:1] in (['true'], ['yes']):
    stated = [] if question.strip().endswith('?') else read(question)
    return [*stated, *read(answer)]
  found = read(answer)
  sides = [word for word in words if word in ('left', 'right')]
  if found or len(sides) != 1 or _UNSURE.search(answer.lower()):
    return found
  (side,) = sides
  chosen, is_choice = _CHOICE.subn(side, question.lower())
  if is_choice:
    return read(chosen)
  return [
    Claim(kind, side, answer.strip())
    for kind, pattern in _WHICH.items()
    if pattern.search(question.lower())
  ]


def _claims(clause: str, is_ordered: bool) -> list[Claim]:
  found = {}
  for kind, pattern in _PATTERNS:
    match = pattern.search(clause)
    if not match or kind in found:
      continue
    if kind == 'turn' and _PARTS.search(clause):
      continue
    if kind in ('side', 'way') and _LEANS.search(clause):
      continue
    # Who turns left while walking may go left in any sense.
    if kind == 'side' and 'turn' in found:
      continue
    found[kind] = Claim(kind, _value(match), clause, is_ordered)
  return list(found.values())


def _value(match: re.Match) -> str:
  groups = match.groupdict()
  if groups.get('clock'):
    return 'right' if groups['clock'] == 'clockwise' else 'left'
  return groups.get('side') or groups['way']
