"""Tables of scores, as text for a terminal and as parts of an HTML page."""

import collections
import itertools
from collections.abc import Iterable, Sequence

from vimonet_jax import page
from vimonet_jax.data import records
from vimonet_jax.eval import benchmarks, judge, published, scores

# In the order of the columns.
INPUTS = {
  'both': 'motion and video',
  'video': 'video only',
  'motion': 'motion only',
  'text': 'question only',
}
HEADS = {**{name: name for name in INPUTS}, 'text': 'question'}
# Whom the table does not name: the rule judge, the model, and old files' rows.
_PLAIN_JUDGES, _PLAIN_SYSTEMS = (None, judge.JUDGE), (None, 'model')
SUMS = {scores.ALL: 'all answers', scores.MACRO: 'mean of domains'}


# --- Text --------------------------------------------------------------------


def text(rows: Sequence[scores.Row]) -> str:
  """Accuracies in percent, drops and caption metrics as aligned plain text."""
  blocks = []
  judged = [row for row in rows if row['accuracy'] is not None]
  columns = ('benchmark', 'split', 'judge')
  for (*name, by), some in grouped(judged, *columns).items():
    domains = dict.fromkeys(row['domain'] for row in in_order(some))
    found = {(_label(row), row['domain']): row for row in some}
    labels = list(dict.fromkeys(map(_label, some)))
    name = [*name, f'({by})'] if by not in _PLAIN_JUDGES else name
    cells = [[' '.join(name), *labels]]
    for domain in domains:
      cells.append([SUMS.get(domain, domain)])
      cells[-1] += [_percent(found.get((label, domain))) for label in labels]
    wholes = [found[label, scores.ALL] for label in labels]
    cells.append(['answers', *(str(row['n']) for row in wholes)])
    if any(row.get('n_unparsed') for row in wholes):
      cells.append(['unparsed', *(str(row['n_unparsed']) for row in wholes)])
    if any(row['n_failed'] for row in wholes):
      cells.append(['failed', *(str(row['n_failed']) for row in wholes)])
      cells.append(['all answers, valid'])
      cells[-1] += [
        '-' if (x := row.get('accuracy_valid')) is None else f'{100 * x:.1f}'
        for row in wholes
      ]
    if chances := _chances(some):
      guessed = [
        f'{100 * chances[d]:.1f}' if d in chances else '-' for d in domains
      ]
      column = itertools.zip_longest(cells, ['chance', *guessed], fillvalue='')
      cells = [[*line, cell] for line, cell in column]
    blocks.append(_with_damaged(aligned(cells), some))
  if drops := [
    r for r in judged if 'drop_points' in r and r['domain'] == scores.ALL
  ]:
    cells = [['drop', 'points', 'low', 'high', '% of clean', '% changed']]
    for row in drops:
      values = [
        *(row[f'drop_points{end}'] for end in ('', '_low', '_high')),
        row['drop_percent'],
        None if row['changed'] is None else 100 * row['changed'],
      ]
      by = row.get('judge')
      judge_name = '' if by in _PLAIN_JUDGES else f' ({by})'
      cells.append([f'{row["benchmark"]} {_label(row)}{judge_name}'])
      cells[-1] += ['-' if x is None else f'{x:.1f}' for x in values]
    blocks.append(aligned(cells))
  if described := [row for row in rows if 'CIDEr' in row]:
    cells = [['captions, x 100', *scores.METRICS, 'n']]
    for row in described:
      name = _of_which(described, row)
      cells.append([f'{name}{row["domain"]} {_label(row)}, {row["system"]}'])
      cells[-1] += [f'{100 * row[metric]:.1f}' for metric in scores.METRICS]
      cells[-1].append(str(row['n']))
    blocks.append(_with_damaged(aligned(cells), described))
  if words := checkpoints(rows):
    blocks.append(words)
  return '\n\n'.join(blocks)


def checkpoints(rows: Sequence[scores.Row]) -> str:
  """A sentence where the model's rows are not all of one; else ''.

  Args:
    rows: that are shown together, of whatever benchmarks.
  """
  found = collections.defaultdict(dict)
  for row in rows:
    if row.get('system') in _PLAIN_SYSTEMS:
      for name in filter(None, row.get('fingerprint', '').split('+')):
        found[name][row['benchmark']] = None
  if len(found) < 2:
    return ''
  named = '; '.join(f'{name}: {", ".join(x)}' for name, x in found.items())
  return (
    f'These rows come from {len(found)} different checkpoints ({named}): run '
    'the evaluation again before comparing them.'
  )


def damaged(rows: Sequence[scores.Row]) -> str:
  """A sentence on records that nothing was asked about; '' without any."""
  most = max((row.get('n_damaged', 0) for row in rows), default=0)
  if not most:
    return ''
  return (
    f'Records that are damaged, so that nothing is asked about them and n is '
    f'smaller: {most:,}.'
  )


def _with_damaged(block: str, rows: Sequence[scores.Row]) -> str:
  return '\n'.join(filter(None, [block, damaged(rows)]))


def _label(row: scores.Row) -> str:
  """What a column is called: who answered, what was shown, how it was read."""
  words = [row['input']]
  if row['corruption'] != benchmarks.CLEAN:
    words.append(row['corruption'])
  if row.get('reading') == benchmarks.LIKELIHOOD:
    words.append('likeliest')
  is_plain = row.get('system') in _PLAIN_SYSTEMS
  if row['accuracy'] is not None and not is_plain:
    words.insert(0, f'{row["system"]}:')
  return ' '.join(words)


def _of_which(rows: Sequence[scores.Row], row: scores.Row) -> str:
  """The name of the benchmark where there are several."""
  is_only = len({row['benchmark'] for row in rows}) == 1
  return '' if is_only else f'{row["benchmark"]} '


def _chances(rows) -> dict[str, float]:
  """Domain -> what guessing gets, where the items know."""
  return {row['domain']: row['chance'] for row in rows if 'chance' in row}


def _percent(row: scores.Row | None) -> str:
  return f'{100 * row["accuracy"]:.1f}' if row else '-'


def aligned(cells: Sequence[Sequence[str]]) -> str:
  """Rows of as many cells each; the first one to the left, others right."""
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = []
  for first, *others in cells:
    pairs = zip(others, widths[1:], strict=True)
    lines.append(
      '  '.join([first.ljust(widths[0]), *(x.rjust(w) for x, w in pairs)])
    )
  return '\n'.join(lines)


# --- HTML --------------------------------------------------------------------


def answers(rows: Sequence[scores.Row]) -> list[str]:
  """How many answers are right, by input and by domain; [] if none is."""
  judged = [row for row in rows if row['accuracy'] is not None]
  if not judged:
    return []
  parts = []
  for name, everything in grouped(judged, 'benchmark', 'split').items():
    headline = everything[0].get('judge')
    some = [
      row
      for row in everything
      if row.get('judge') == headline
      and row.get('system') in _PLAIN_SYSTEMS
      and row.get('reading') != benchmarks.LIKELIHOOD
    ]
    clean = [row for row in some if row['corruption'] == benchmarks.CLEAN]
    found = {(row['input'], row['domain']): row for row in clean}
    inputs = [name for name in INPUTS if (name, scores.ALL) in found]
    parts.append(f'<h3>{page.escape(" · ".join(name))}</h3>')
    if not inputs:
      parts.append(page.missing('No clean media have been scored yet.'))
      continue
    parts.append(_verdict([found[name, scores.ALL] for name in inputs]))
    wholes = [(INPUTS[name], found[name, scores.ALL]) for name in inputs]
    wholes += [
      ('another clip’s media', row)
      for row in some
      if (row['input'], row['corruption'], row['domain'])
      == ('both', benchmarks.SWAPPED, scores.ALL)
    ]
    parts.append(
      page.bars(
        [(_counted(name, r), r['accuracy'], *interval(r)) for name, r in wholes]
      )
    )
    parts += [*_domain_bars(found, inputs), *_domains(found, inputs)]
    parts += [_remarks(some), *_others(everything)]
  return parts


def _others(rows) -> list[str]:
  """Every way to ask and to judge, and who else was judged; [] if only one."""
  wholes = [row for row in rows if row['domain'] in SUMS]
  ways = {
    (row.get('judge'), row.get('reading'), row.get('system')) for row in wholes
  }
  if len(ways) < 2:
    return []
  lines = []
  for row in wholes:
    low, high = interval(row)
    valid = row.get('accuracy_valid')
    lines.append(
      page.row(
        f'{page.escape(_label(row))}<small>{page.escape(row["judge"])}, '
        f'{SUMS[row["domain"]]}</small>',
        f'{100 * row["accuracy"]:.1f}<small>{100 * low:.1f}–{100 * high:.1f}'
        '</small>',
        '–' if valid is None else f'{100 * valid:.1f}',
        f'{row["n"]:,}',
        f'{row["n_failed"]:,}',
        f'{row.get("n_unparsed", 0):,}',
      )
    )
  head = ('accuracy', 'of valid', 'n', 'failed', 'unparsed')
  return [page.details('All judges and systems', page.table(head, lines))]


def _verdict(wholes) -> str:
  best, *others = wholes
  words = (
    f'With {INPUTS[best["input"]]}, '
    f'<b>{100 * best["accuracy"]:.1f}&#8239;%</b> of {best["n"]:,} answers '
    'are right'
  )
  if others:
    words += '; ' + ', '.join(
      f'{INPUTS[row["input"]]}: {100 * row["accuracy"]:.1f}&#8239;%'
      for row in others
    )
  return f'<p class="lead">{words}.</p>'


def _counted(name: str, row: scores.Row) -> str:
  return f'{name}<small>n {row["n"]:,}</small>'


def _domain_bars(found, inputs) -> list[str]:
  """A bar for each domain; what was shown less is there to be opened."""
  parts = []
  for place, shown in enumerate(inputs):
    there = in_order(r for (name, _), r in found.items() if name == shown)
    lines = [
      (_counted(name_of(r['domain']), r), r['accuracy'], *interval(r))
      for r in there
      if r['domain'] not in SUMS and '/' not in r['domain']
    ]
    if len(lines) < 2:
      continue
    title = f'By domain, {INPUTS[shown]}'
    if place == 0:
      parts += [f'<h4>{title}</h4>', page.bars(lines)]
    else:
      parts.append(page.details(title, page.bars(lines)))
  return parts


def _domains(found, inputs) -> tuple[str, str]:
  """Domains down, inputs across; colour only where the input has the answer."""
  chances = _chances(found.values())
  lines = []
  for domain in dict.fromkeys(
    row['domain'] for row in in_order(found.values())
  ):
    there = {i: found[i, domain] for i in inputs if (i, domain) in found}
    cells = [
      _heat(there[name]) if name in there else page.Cell('–', 'class="guess"')
      for name in inputs
    ]
    if chances:
      guess = f'{100 * chances[domain]:.0f}' if domain in chances else '–'
      cells.append(page.Cell(guess, 'class="guess"'))
    counts = sorted({row['n'] for row in there.values()})
    counts = '–'.join(f'{n:,}' for n in dict.fromkeys(counts[:1] + counts[-1:]))
    cells.append(page.Cell(counts, 'class="guess"'))
    kind = 'sum' if domain in SUMS else ''
    lines.append(page.row(name_of(domain), *cells, kind=kind))
  heads = [HEADS[name] for name in inputs] + ['chance'] * bool(chances)
  return (
    page.table([*heads, 'n'], lines),
    page.quiet(
      'Percent of right answers, with 95&#8239;% intervals. Cells without '
      'colour lack a medium that the answer must be read from: they show what '
      'guessing is worth.'
    ),
  )


def _heat(row) -> page.Cell:
  accuracy, (low, high) = row['accuracy'], interval(row)
  # Other benchmarks' domains have the names, and are asked about their media.
  is_own = row['benchmark'] == benchmarks.SYNTHETIC
  needed = set(records.DOMAINS.get(row['domain'], ()) if is_own else ())
  can_see = needed <= set(benchmarks.INPUTS[row['input']])
  return page.Cell(
    f'{100 * accuracy:.0f}<small>{100 * low:.0f}–{100 * high:.0f}</small>',
    f'class="heat" style="--v:{accuracy:.3f}"' if can_see else 'class="guess"',
  )


def _remarks(rows) -> str:
  """What a reader must know before comparing these numbers."""
  remarks = []
  failed = sum(r['n_failed'] for r in rows if r['domain'] == scores.ALL)
  if failed:
    remarks.append(f'Answers that failed, and count as wrong: {failed:,}.')
  if words := damaged(rows):
    remarks.append(words)
  if judges := {row['judge'] for row in rows if row.get('judge')}:
    remarks.append(
      f'Judge: {page.escape(", ".join(sorted(judges)))}; only numbers of the '
      'same judge can be compared.'
    )
  return page.quiet(' '.join(remarks))


def captions(rows: Sequence[scores.Row]) -> list[str]:
  """Caption metrics by system; [] without such rows."""
  described = [row for row in rows if 'CIDEr' in row]
  if not described:
    return []
  lines = []
  for row in described:
    name = _of_which(described, row)
    place = f'{name}{name_of(row["domain"])}, {row["split"]}'
    if row['corruption'] != benchmarks.CLEAN:
      place += f', {row["corruption"]}'
    lines.append(
      page.row(
        f'{page.escape(row["system"])}<small>{page.escape(place)}</small>',
        *(f'{100 * row[metric]:.1f}' for metric in scores.METRICS),
        f'{row["n"]:,}',
      )
    )
  head = [name.replace('_', '-') for name in scores.METRICS]
  return [
    page.table([*head, 'n'], lines),
    page.quiet(
      'All times 100. CIDEr weighs words by how rare they are in this set of '
      f'clips: compare it inside this table only. {damaged(described)}'
    ),
  ]


def in_order(rows: Iterable[scores.Row]) -> list[scores.Row]:
  """Rows of one benchmark: domains, then slices, then sums.

  As its published table has them, else as records.DOMAINS. A slice has no kinds
  of questions; those of two things at once (`action/before`) come last.
  """
  rows = list(rows)
  order = list(records.DOMAINS)
  if rows and (name := rows[0]['benchmark']) in published.BENCHMARKS:
    printed = dict.fromkeys(c for row in published.of(name) for c in row.values)
    order = [*printed, *order]

  def place(name):
    return order.index(name) if name in order else len(order)

  def key(row):
    domain = row['domain']
    if domain in SUMS:
      return 3, list(SUMS).index(domain), 0
    first, slash, second = domain.partition('/')
    group = 0 if 'kinds' in row else 1 + bool(slash)
    return group, place(first), place(second)

  return sorted(rows, key=key)


def interval(row: scores.Row) -> tuple[float, float]:
  """Of the accuracy, 95 %; rows of before there was one have Wilson's."""
  if 'low' in row:
    return row['low'], row['high']
  return scores.wilson(row['accuracy'], row['n'])


def name_of(domain: str) -> str:
  return page.escape(SUMS.get(domain, domain.replace('_', ' ')))


def grouped(
  rows: Sequence[scores.Row], *columns: str
) -> dict[tuple, list[scores.Row]]:
  """Rows by what they have in some columns, in the order of the first ones."""
  groups = collections.defaultdict(list)
  for row in rows:
    groups[tuple(row.get(column) for column in columns)].append(row)
  return groups
