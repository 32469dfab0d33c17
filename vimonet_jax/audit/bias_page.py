"""What an audit found, as one page and as text for a terminal.

Both show what audit.json holds; see `auditing`.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vimonet_jax import page
from vimonet_jax.audit import compared

# Attribute -> how it is called.
NAMES = {
  'size': 'body size',
  'proportion': 'proportions',
  'skin': 'skin colour',
  'shirt': 'shirt colour',
  'people': 'people in view',
  'legs': 'length of the legs',
  'side': 'side in the answer',
  'mirror': 'mirror image',
}
# Points from the middle of a picture to its edge, at most.
_MOST_POINTS = 50
_SLICES = (
  'Answers about clips of a group, against those of all other groups: a '
  'difference, whatever its cause. Points are within kinds of questions, so '
  'they need not be the difference of the two shares.'
)
_TWINS = (
  'The same questions about the same motion in the same place, by somebody who '
  'differs in one thing, or in a mirror, with left and right exchanged in '
  'question and answer. Here the one thing is the cause.'
)
_WORDS = (
  'Texts with a word for a gender or an age, and, of the model’s answers, '
  'those that bring one in where neither question nor right answer has any.'
)


def sentence(found: Mapping[str, Any]) -> str:
  """What the audit comes to, first of all."""
  level = f'{100 * found["level"]:g} % level'
  differences = [c for c in found['comparisons'] if c['is_found']]
  if not found['number']:
    return (
      'Nothing could be compared: no group has '
      f'{compared.LEAST_CLIPS} clips and others to compare them with.'
    )
  among = f'among {_many(found["number"], "comparison")}'
  if differences:
    return f'{_many(len(differences), "difference")} at the {level} {among}.'
  reach = [c['detectable'] for c in found['comparisons'] if c['detectable']]
  said = f'No difference at the {level} {among}.'
  if not reach:
    return said
  return (
    f'{said} The smallest difference that so many answers show four times of '
    f'five is {np.median(reach):.1f} points in the middle comparison, and '
    f'{min(reach):.1f} to {max(reach):.1f} in all.'
  )


def difference(c: Mapping[str, Any]) -> str:
  """'size large: 12.3 points fewer right answers than the rest ...'."""
  way = 'fewer' if c['points'] < 0 else 'more'
  low, high = sorted(abs(c[f'points_{end}']) for end in ('low', 'high'))
  if c['points_low'] < 0 < c['points_high']:
    low = 0.0
  whom = c['against']
  if c['kind'] == compared.TWIN and whom == compared.REST:
    whom = 'their twins'
  return (
    f'{called(c["attribute"])} {c["group"]}: {abs(c["points"]):.1f} points '
    f'{way} right answers than {whom} (95 %: {low:.1f} to {high:.1f}; '
    f'{c["n"]:,} answers about {c["n_clips"]:,} clips of {c["set"]})'
  )


def text(found: Mapping[str, Any]) -> str:
  """For a terminal: the sentence, and a line a difference."""
  lines = [_drill_words(found['drill'])] if found['drill'] else []
  lines.append(sentence(found))
  lines += [f'  {difference(c)}' for c in found['comparisons'] if c['is_found']]
  return '\n'.join(lines)


def html(found: Mapping[str, Any]) -> str:
  """The page."""
  comparisons = found['comparisons']
  scale = _scale(comparisons)
  differences = [c for c in comparisons if c['is_found']]
  said = ''.join(f'<li>{page.escape(difference(c))}</li>' for c in differences)
  parts = [
    f'<ol>{said}</ol>' if differences else page.missing('None is found.'),
    page.quiet(_amounts(found)),
  ]
  sections = [page.section('Differences', *parts)]
  for title, kind, words in (
    ('Twins', compared.TWIN, _TWINS),
    ('Groups', compared.SLICE, _SLICES),
  ):
    some = [c for c in comparisons if c['kind'] == kind]
    if some:
      tables = [page.quiet(words), *_tables(some, scale)]
      sections.append(page.section(title, *tables))
  sections.append(page.section('Words', *_words(found['words'])))
  sections.append(page.section('How to read this', *_method(found)))
  drill = ''
  if found['drill']:
    drill = f'<p class="wrong">{page.escape(_drill_words(found["drill"]))}</p>'
  return page.document(
    f'Bias audit: {found["name"]}',
    '<header><h1>Bias audit</h1>'
    + page.quiet(f'{page.escape(found["name"])}, {found["made"]}')
    + f'</header>{drill}<p class="lead">{page.escape(sentence(found))}</p>'
    + ''.join(sections),
  )


# --- Comparisons -------------------------------------------------------------


def _tables(comparisons: Sequence[Mapping], scale: float) -> list[str]:
  """A table a test set, with a block an attribute."""

  def place(c):
    return c['set'], c['attribute']

  head = ('points', '', 'right, %', 'answers', 'p', 'would show')
  parts = []
  # What was found comes first in the list, and in its block here.
  some = sorted(comparisons, key=place)
  for name, of_set in itertools.groupby(some, key=lambda c: c['set']):
    rows = []
    for (_, attribute), of_one in itertools.groupby(of_set, key=place):
      rows.append(page.block(page.escape(called(attribute)), len(head) + 1))
      rows += [_row(c, scale) for c in of_one]
    parts += [f'<h3>{page.escape(name)}</h3>', page.table(head, rows)]
  return parts


def _row(c: Mapping[str, Any], scale: float) -> str:
  label = page.escape(c['group'])
  if c['against'] != compared.REST:
    label += f' <small>against {page.escape(c["against"])}</small>'
  reach = f'{c["detectable"]:.1f}' if c['detectable'] else '–'
  changed = ''
  if c['changed'] is not None:
    changed = f'<small>{100 * c["changed"]:.0f}&#8239;% other answers</small>'
  return page.row(
    label,
    f'{_signed(c["points"])}<small>{_signed(c["points_low"])} to '
    f'{_signed(c["points_high"])}</small>',
    page.Cell(_picture(c, scale), 'class="share"'),
    f'{100 * c["share"]:.1f}<small>{100 * c["low"]:.1f} to '
    f'{100 * c["high"]:.1f}</small><small>others '
    f'{100 * c["share_against"]:.1f}</small>',
    f'{c["n"]:,}{changed}<small>{c["n_clips"]:,} clips</small>',
    f'{_p(c["p"])}<small>{_p(c["p_adjusted"])} of all</small>',
    reach,
    kind='sum' if c['is_found'] else '',
  )


def _picture(c: Mapping[str, Any], scale: float) -> str:
  """The difference as a dot on its interval, around a line for none."""
  width, height = 160, 14

  def x(points):
    return width / 2 * (1 + max(-1.0, min(1.0, points / scale)))

  colour = 'var(--wrong)' if c['is_found'] else 'var(--quiet)'
  low, high, at = x(c['points_low']), x(c['points_high']), x(c['points'])
  return (
    f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="'
    f'{c["points"]:+.1f} points"><line x1="{width / 2}" x2="{width / 2}" y1="0"'
    f' y2="{height}"/><line x1="{low:.1f}" x2="{high:.1f}" y1="7" y2="7" '
    f'style="stroke:{colour};stroke-width:2"/><circle cx="{at:.1f}" cy="7" '
    f'r="2.8" style="fill:{colour}"/></svg>'
  )


def _scale(comparisons: Sequence[Mapping]) -> float:
  ends = [abs(c[x]) for c in comparisons for x in ('points_low', 'points_high')]
  return min(max([5.0, *ends]), _MOST_POINTS)


def _amounts(found: Mapping[str, Any]) -> str:
  said = [
    f'{page.escape(name)}: {some["answers"]:,} answers about '
    f'{some["clips"]:,} clips ({some["input"]}; right by '
    f'{page.escape(some["measure"])})'
    + (
      f' and {some["pairs"]:,} about twins or mirror images'
      if some['pairs']
      else ''
    )
    for name, some in found['sets'].items()
  ]
  return f'Asked: {"; ".join(said)}.'


# --- Words -------------------------------------------------------------------


def _words(words: Mapping[str, Any]) -> list[str]:
  head = ('texts', 'female', 'male', 'age', 'gender added', 'age added')
  rows, named = [], []
  for name, some in words.items():
    added = some.get('added', {})
    rows.append(
      page.row(
        page.escape(name),
        f'{some["n"]:,}',
        *(_rate(some[kind]) for kind in ('female', 'male', 'age')),
        *(_rate(added[k]) if added else '–' for k in ('gender', 'age')),
      )
    )
    if some['words']:
      most = ', '.join(f'{word} {n:,}' for word, n in some['words'])
      named.append(f'{name}: {most}.')
  parts = [page.quiet(_WORDS), page.table(head, rows)]
  if named:
    parts.append(page.footnotes(named, is_numbered=False))
  else:
    parts.append(page.quiet('There is no such word anywhere.'))
  return parts


def _rate(some: Sequence[float]) -> str:
  number, share, low, high = some
  return (
    f'{int(number):,}<small>{100 * share:.2g}&#8239;%, {100 * low:.2g} to '
    f'{100 * high:.2g}</small>'
  )


# --- How it was done ---------------------------------------------------------


def _method(found: Mapping[str, Any]) -> list[str]:
  notes = [
    f'All {found["number"]} comparisons are one family: the chance that '
    f'anything is called a difference where there is none is at most '
    f'{100 * found["level"]:g} %, for all of them together (Holm). p is of one '
    'comparison, and below it of the family.',
    'P-values are counted in 9,999 exchanges: clips exchange their groups, '
    'twins change places. Answers about one clip stay together, and groups are '
    'compared in standard errors, since one may have been asked questions that '
    'are right less evenly.',
    'A group that is found is set aside before the next is looked for, and the '
    'rows of all others are without it.',
    '“would show”: the difference in points that so many answers show four '
    'times of five.',
    f'A group of fewer than {compared.LEAST_CLIPS} clips is not compared'
    + (
      ': '
      + ', '.join(
        f'{called(attribute)} {group} ({clips}, {name})'
        for name, attribute, group, clips in found['too_few']
      )
      if found['too_few']
      else ''
    )
    + '.',
    'No difference found means none that so many answers show. It says nothing '
    'about people, clothes and places that are in no test set.',
    'HumanML3D’s features give everybody the same bones, so a motion tells '
    'nothing of a build; a video does.',
    f'Weights {found["fingerprint"]}.',
  ]
  return [page.footnotes(notes, is_numbered=False)]


def _drill_words(drill: str) -> str:
  return (
    f'A drill: a third of the right answers about {drill} were replaced by '
    'wrong ones, to see whether this audit finds that. Its numbers say nothing '
    'about the model.'
  )


def called(attribute: str) -> str:
  """An attribute, for readers."""
  return NAMES.get(attribute, attribute)


def _many(number: int, noun: str) -> str:
  return f'{number:,} {noun}{"s" * (number != 1)}'


def _signed(points: float) -> str:
  return f'{points:+.1f}'.replace('-', '−')


def _p(p: float) -> str:
  return f'{p:.2f}' if p >= 0.095 else f'{p:.2g}'
