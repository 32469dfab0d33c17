"""The card of a finished model, made of what its run has written.

`make` gathers sections of sentences and tables; `markdown` and `html` show the
same ones.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vimonet_jax import page
from vimonet_jax.audit import bias_page
from vimonet_jax.data import contents
from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import benchmarks, scores, scoring, tables
from vimonet_jax.models import vimonet

# Parts of the weights, by how their paths begin.
_PARTS = {
  'decoder': 'llm/',
  'video tower': 'video/',
  'motion encoder': 'motion/',
  'translators': 'translators/',
}


class Table(NamedTuple):
  """Plain text in rows, the first column of which is their name."""

  head: Sequence[str]
  rows: Sequence[Sequence[str]]


class Section(NamedTuple):
  """A part of a card: sentences and tables, in order."""

  title: str
  parts: Sequence[str | Table]


class Card(NamedTuple):
  """A card; `told` says of which run it is."""

  name: str
  told: str
  sections: Sequence[Section]


def make(
  *,
  config: Mapping[str, Any],
  model: vimonet.Config,
  weights: Any,
  stages: Mapping[str, Mapping[str, Any]],
  data: Mapping[str, Any],
  rows: Sequence[scores.Row],
  audit: Mapping[str, Any],
  versions: Mapping[str, str],
) -> Card:
  """A card of a run.

  Args:
    config: the settings that the work folder was made with, as JSON holds
      them.
    model: sizes of the finished model.
    weights: of the finished model, a weight_files.Lazy.
    stages: name -> summary of its training, empty where it was not trained.
    data: contents.count of what was read, and `records`, split -> how many
      there are.
    rows: of scores.json.
    audit: what audit.json holds.
    versions: of the software and the machine.
  """
  sections = (
    Section('What it is', _model(config, model, weights)),
    Section('What it was trained on', _data(config, data)),
    Section('How it was trained', _training(stages)),
    Section('How often it is right', _scores(rows)),
    Section('For whom it is worse', _audit(audit)),
    Section('What it cannot do', _limits(model, rows)),
    Section('What made it', _made(audit, versions)),
  )
  told = f'Made of the run on {audit["made"]} by --task=audit.'
  return Card(f'Model card: {audit["name"]}', told, sections)


def markdown(card: Card) -> str:
  """The card as a Markdown file."""
  lines = [f'# {_plain(card.name)}', '', card.told]
  for section in card.sections:
    lines += ['', f'## {section.title}']
    for part in section.parts:
      lines.append('')
      if isinstance(part, str):
        lines.append(_plain(part))
        continue
      lines.append(_line(['', *part.head]))
      lines.append(_line(['---', *(['---:'] * len(part.head))]))
      lines += [_line(row) for row in part.rows]
  return '\n'.join(lines) + '\n'


def html(card: Card) -> str:
  """The card as a page."""
  sections = []
  for section in card.sections:
    parts = []
    for part in section.parts:
      if isinstance(part, str):
        parts.append(f'<p>{page.escape(part)}</p>')
        continue
      rows = [page.row(*map(page.escape, row)) for row in part.rows]
      parts.append(page.table([*map(page.escape, part.head)], rows))
    sections.append(page.section(section.title, *parts))
  return page.document(
    card.name,
    f'<header><h1>{page.escape(card.name)}</h1>{page.quiet(card.told)}</header>'
    + ''.join(sections),
  )


def _line(cells: Iterable[str]) -> str:
  return '| ' + ' | '.join(map(_plain, cells)) + ' |'


def _plain(words: str) -> str:
  """Nothing in it is taken for Markdown's or HTML's signs, or ends a line."""
  words = ' '.join(words.split())
  for sign in '\\|*_`<[#':
    words = words.replace(sign, f'\\{sign}')
  return words


# --- Sections ----------------------------------------------------------------


def _model(config, model: vimonet.Config, weights) -> list[str | Table]:
  sizes = {
    part: sum(
      math.prod(shape)
      for path, shape in weights.shapes.items()
      if path.startswith(start)
    )
    for part, start in _PARTS.items()
  }
  rows = [(part, f'{size:,}') for part, size in sizes.items() if size]
  rows.append(('all', f'{sum(map(math.prod, weights.shapes.values())):,}'))
  kinds = ', '.join(sorted({str(dtype) for dtype in weights.dtypes.values()}))
  parts: list[str | Table] = [
    'A ViMoNet: it answers questions about a motion, a video, or both, in '
    'words.',
    Table(('parameters',), rows),
    f'Kept as {kinds}. The decoder has {model.llm.layers} layers of width '
    f'{model.llm.width} and {model.llm.vocab_size:,} pieces of words.',
  ]
  bases = {k: x for k, x in (config.get('base') or {}).items() if x}
  if bases:
    named = ', '.join(f'{part} from {path}' for part, path in bases.items())
    parts.append(f'It began with weights of others: {named}.')
  else:
    parts.append('No weights of others are in it.')
  return parts


def _data(config, data: Mapping[str, Any]) -> list[str | Table]:
  media = [
    medium
    for medium in ('motion', 'video')
    if any(some[f'{medium}_hours'] for some in data['splits'].values())
  ]
  rows = [
    (
      split,
      f'{data["records"][split]:,}',
      f'{some["records"]:,}',
      *(f'{some[f"{medium}_hours"]:.2f}' for medium in media),
    )
    for split, some in data['splits'].items()
  ]
  licences = [
    (licence, ', '.join(f'{source} ({n:,})' for source, n in some.items()))
    for licence, some in data['licences'].items()
  ]
  both = data['clips_in_two_splits']['number']
  parts: list[str | Table] = [
    f'Data set {config["data"]["name"]}; hours are of the records that were '
    'read for this card.',
    Table(('records', 'read', *(f'hours of {x}' for x in media)), rows),
    f'{both:,} clips that were read are in two splits.',
    Table(('records read',), licences),
  ]
  if contents.NOT_STATED in data['licences']:
    parts.append('Of some records the licence is not stated.')
  if data['generators']:
    named = ', '.join(f'{k} ({n:,})' for k, n in data['generators'].items())
    parts.append(f'Who or what wrote the words: {named}.')
  return parts


def _training(stages) -> list[str | Table]:
  rows = []
  for name, summary in stages.items():
    if not summary:
      rows.append((name, 'not trained here', '', ''))
      continue
    loss = summary.get('metrics', {}).get('loss')
    rows.append(
      (
        name,
        f'{summary["steps"]:,}',
        f'{summary["seconds"] / 60:.1f}',
        '' if loss is None else f'{loss:.3g}',
      )
    )
  return [Table(('steps', 'minutes', 'last loss'), rows)]


def _scores(rows: Sequence[scores.Row]) -> list[str | Table]:
  mine = _own(rows)
  judged = [row for row in mine if row['accuracy'] is not None]
  parts: list[str | Table] = []
  way = ('benchmark', 'split', 'judge', 'reading')
  for (name, split, judge, reading), some in tables.grouped(
    judged, *way
  ).items():
    shown = [x for x in tables.INPUTS if any(row['input'] == x for row in some)]
    cells = {
      (_domain(row), row['input']): f'{100 * row["accuracy"]:.1f} '
      f'({100 * row["low"]:.1f} to {100 * row["high"]:.1f})'
      for row in some
    }
    numbers = {_domain(row): row['n'] for row in some}
    lines = [
      (domain, *(cells.get((domain, x), '') for x in shown), f'{number:,}')
      for domain in dict.fromkeys(map(_domain, tables.in_order(some)))
      for number in [numbers[domain]]
    ]
    parts.append(
      f'{name}, {split}: right answers in percent, with 95 % intervals, '
      f'judged by {judge}'
      + ('.' if reading != benchmarks.LIKELIHOOD else ', the likeliest option.')
    )
    heads = [tables.INPUTS[x] for x in shown]
    parts.append(Table((*heads, 'answers'), lines))
  described = [row for row in mine if 'CIDEr' in row]
  if described:
    lines = [
      (
        f'{row["benchmark"]}, {row["split"]}',
        *(f'{100 * row[metric]:.1f}' for metric in scores.METRICS),
        f'{row["n"]:,}',
      )
      for row in described
    ]
    parts.append(Table((*scores.METRICS, 'captions'), lines))
  return parts or ['Nobody has evaluated it: --task=eval does.']


def _audit(audit: Mapping[str, Any]) -> list[str | Table]:
  found = [c for c in audit['comparisons'] if c['is_found']]
  parts: list[str | Table] = [bias_page.sentence(audit)]
  parts += [f'{bias_page.difference(c)}.' for c in found]
  compared = sorted(
    {bias_page.called(c['attribute']) for c in audit['comparisons']}
  )
  if compared:
    parts.append(f'Compared by: {", ".join(compared)}.')
  parts.append('audit.html shows all comparisons.')
  return parts


def _limits(model: vimonet.Config, rows) -> list[str | Table]:
  seconds = model.max_motion_frames / records_lib.FPS
  size = model.video.image_size
  parts = [
    f'Of a motion it reads {seconds:.1f} seconds, of one body with 22 joints; '
    f'of a video {model.video.frames} frames of {size} x {size} pixels.',
    'All that it was trained on is above. What is in none of it, such as other '
    'places, clothes, movements or languages, it has not learnt.',
  ]
  wholes = {
    row['input']: row
    for row in _own(rows)
    if row['domain'] == scores.ALL and row['accuracy'] is not None
  }
  if 'text' in wholes:
    row = wholes['text']
    parts.append(
      'Without motion and video it answers, too, and '
      f'{100 * row["accuracy"]:.0f} % right ({row["benchmark"]}): that it '
      'answers is no sign that it has seen anything.'
    )
  domains = [
    row for row in _own(rows) if 'kinds' in row and row['input'] == 'both'
  ]
  if domains:
    row = min(domains, key=lambda row: row['accuracy'])
    parts.append(
      f'With both it is worst at {_domain(row)}: {100 * row["accuracy"]:.1f} % '
      f'({row["benchmark"]}).'
    )
  return parts


def _made(audit: Mapping[str, Any], versions) -> list[str | Table]:
  rows = [(name, version) for name, version in versions.items()]
  return [
    f'Weights {audit["fingerprint"]}, settings {audit["settings"]}.',
    Table(('audited with',), rows),
  ]


def _own(rows: Sequence[scores.Row]) -> list[scores.Row]:
  """Of the model, with clean media."""
  return [
    row
    for row in rows
    if row.get('system') in (None, scoring.MODEL)
    and row['corruption'] == benchmarks.CLEAN
  ]


def _domain(row: scores.Row) -> str:
  return tables.SUMS.get(row['domain'], row['domain'].replace('_', ' '))
