"""A study's table, claims and figure: text for a terminal, and one page."""

from collections.abc import Mapping, Sequence
from typing import Any

from vimonet_jax import page
from vimonet_jax.eval import benchmarks, scores, studies, study_claims

_WORDS = {
  study_claims.HOLDS: 'Holds',
  study_claims.FAILS: 'Does not hold',
  study_claims.OPEN: 'Not decided',
}
_RULE = (
  'A claim holds where the 95&#8239;% interval leaves out zero and every seed '
  'agrees, or where the whole interval is within a bound. Intervals say what '
  'other clips would change, not what other seeds would.'
)
_LEVELS = (benchmarks.CLEAN, 'L1', 'L2', 'L3', 'L4')


def text(
  rows: Sequence[studies.Row],
  claims: Sequence[study_claims.Claim],
  tables: Sequence[studies.Table],
  failed: Mapping[str, str],
  notes: Sequence[str] = (),
) -> str:
  """Accuracies, differences and claims as aligned plain text.

  Args:
    rows: of the study.
    claims: of the study.
    tables: from studies.tables.
    failed: run and seed -> why it has no answers.
    notes: sentences that a reader must know before the numbers.
  """
  blocks = []
  for table in tables:
    domains = _domains(table)
    cells = [[f'{table.benchmark} ({table.judge}), %', *domains, 'n']]
    for row in rows:
      numbers = table.rows[row.label]
      whole = numbers.get(scores.ALL)
      cells.append(
        [
          row.label,
          *(_accuracy(numbers.get(domain)) for domain in domains),
          f'{whole["n"]} x {len(whole["by_seed"])}' if whole else '-',
        ]
      )
    blocks.append(_aligned(cells))
    cells = [['difference, points', *domains, '% of it', 'changed']]
    for row in rows:
      numbers = table.rows[row.label]
      whole = numbers.get(scores.ALL, {})
      if not row.against:
        continue
      cells.append(
        [
          f'{row.label} - {row.against}',
          *(_difference(numbers.get(domain)) for domain in domains),
          _relative(whole),
          f'{100 * whole["changed"]:.0f} %' if 'changed' in whole else '-',
        ]
      )
    if len(cells) > 1:
      blocks.append(_aligned(cells))
    if claims:
      blocks.append('\n'.join(_sentences(claims, table)))
  blocks += [f'{name} failed: {reason}' for name, reason in failed.items()]
  return '\n\n'.join([*notes, *blocks])


def write_page(
  path: str,
  name: str,
  rows: Sequence[studies.Row],
  claims: Sequence[study_claims.Claim],
  tables: Sequence[studies.Table],
  failed: Mapping[str, str],
  notes: Sequence[str] = (),
) -> None:
  """Writes the page: for each benchmark and judge a figure, a table, claims.

  Args:
    path: of the page, replaced as a whole.
    name: of the study.
    rows: this and all others as in `text`.
    claims: see there.
    tables: see there.
    failed: see there.
    notes: see there.
  """
  body = f'<header><h1>{page.escape(name)}</h1></header>'
  if notes or failed:
    said = [*map(page.escape, notes)]
    said += [f'{page.escape(x)} failed: {page.escape(why)}'
             for x, why in failed.items()]  # fmt: skip
    body += page.section('To know first', *map(page.quiet, said))
  for table in tables:
    parts = [_figure(rows, table)]
    if claims:
      parts.append('<h3>Claims</h3>')
      parts += [f'<p>{page.escape(x)}</p>' for x in _sentences(claims, table)]
      parts.append(page.quiet(_RULE))
    parts += ['<h3>Accuracy</h3>', _accuracies(rows, table)]
    if any(row.against for row in rows):
      parts += ['<h3>Differences</h3>', _all_differences(rows, table)]
    title = f'{table.benchmark}, judged by {table.judge}'
    body += page.section(title, *parts)
  if not tables:
    body += page.missing('No run has answered yet.')
  with open(path, 'w', encoding='utf-8') as f:
    f.write(page.document(f'ViMoNet: {name}', body))


def _domains(table: studies.Table) -> list[str]:
  """Columns: everything, and the groups that somebody was asked about."""
  found = {name for numbers in table.rows.values() for name in numbers}
  return [x for x in (scores.ALL, *studies.GROUPS.values()) if x in found]


def _sentences(
  claims: Sequence[study_claims.Claim], table: studies.Table
) -> list[str]:
  said = []
  for claim in claims:
    verdict, phrases = study_claims.decide(claim, table)
    is_group = claim.domain in studies.GROUPS.values()
    of = f' ({"questions " * is_group}{claim.domain})'
    of = '' if claim.domain == scores.ALL else of
    said.append(f'{_WORDS[verdict]}: {claim.says}{of}. {"; ".join(phrases)}.')
  return said


# --- Text --------------------------------------------------------------------


def _accuracy(numbers: Mapping[str, Any] | None) -> str:
  if not numbers:
    return '-'
  low, high = 100 * numbers['low'], 100 * numbers['high']
  return f'{100 * numbers["accuracy"]:.1f} [{low:.1f}, {high:.1f}]'


def _difference(numbers: Mapping[str, Any] | None) -> str:
  if 'difference' not in (numbers or {}):
    return '-'
  low, high = numbers['difference_low'], numbers['difference_high']
  return f'{numbers["difference"]:+.1f} [{low:+.1f}, {high:+.1f}]'


def _relative(numbers: Mapping[str, Any]) -> str:
  if numbers.get('percent') is None:
    return '-'
  low, high = numbers['percent_low'], numbers['percent_high']
  return f'{numbers["percent"]:+.1f} [{low:+.1f}, {high:+.1f}]'


def _aligned(cells: Sequence[Sequence[str]]) -> str:
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return '\n'.join(
    '  '.join(
      [first.ljust(widths[0])]
      + [x.rjust(w) for x, w in zip(others, widths[1:], strict=True)]
    )
    for first, *others in cells
  )


# --- HTML --------------------------------------------------------------------


def _figure(rows: Sequence[studies.Row], table: studies.Table) -> str:
  """A curve for each input that was shown at several levels, else bars."""
  curves = {}
  for row in rows:
    numbers = table.rows[row.label]
    # What the input can answer; the rest is guessed at every level.
    domain = studies.GROUPS.get(benchmarks.INPUTS[row.input])
    domain = scores.ALL if row.input == 'both' else domain
    if domain in numbers and row.corruption in _LEVELS:
      level, name = _LEVELS.index(row.corruption), (row.run, row.input, domain)
      curves.setdefault(name, {})[level] = numbers[domain]
  curves = {key: x for key, x in curves.items() if len(x) > 2}
  if curves:
    return _curves(curves)
  return page.bars(
    [
      (page.escape(row.label), x['accuracy'], x['low'], x['high'])
      for row in rows
      if (x := table.rows[row.label].get(scores.ALL))
    ]
  )


def _curves(curves: Mapping[tuple[str, ...], Mapping[int, Any]]) -> str:
  """Accuracy over the levels of noise, with intervals, as inline SVG."""
  width, height, left, bottom, top = 560, 220, 40, 34, 8

  def x(level: float) -> float:
    return left + 20 + level * (width - left - 60) / (len(_LEVELS) - 1)

  def y(share: float) -> float:
    return height - bottom - share * (height - bottom - top)

  parts = [
    f'<line x1="{left}" x2="{width}" y1="{y(t / 4):.1f}" y2="{y(t / 4):.1f}"/>'
    f'<text x="{left - 5}" y="{y(t / 4) + 3:.1f}" text-anchor="end">'
    f'{25 * t} %</text>'
    for t in range(5)
  ]
  parts += [
    f'<text x="{x(i):.1f}" y="{height - bottom + 14}" text-anchor="middle">'
    f'{"clean" if i == 0 else name}</text>'
    for i, name in enumerate(_LEVELS)
  ]
  for number, (name, levels) in enumerate(curves.items()):
    shift = 4 * number  # Intervals side by side.
    points = [(x(i) + shift, levels[i]) for i in sorted(levels)]
    line = ' '.join(f'{a:.1f},{y(b["accuracy"]):.1f}' for a, b in points)
    kind = 'mean' if number == 0 else 'eval'
    parts.append(f'<polyline class="{kind}" points="{line}"/>')
    for a, b in points:
      parts.append(
        f'<line style="stroke:currentColor" x1="{a:.1f}" x2="{a:.1f}" '
        f'y1="{y(b["low"]):.1f}" y2="{y(b["high"]):.1f}"/>'
        f'<circle cx="{a:.1f}" cy="{y(b["accuracy"]):.1f}" r="2.5"/>'
      )
    style = 'solid' if number == 0 else 'dashed'
    parts.append(
      f'<text x="{left + 180 * number}" y="{height - 4}">{style}: '
      f'{page.escape(", ".join(name))}</text>'
    )
  return (
    f'<figure><svg viewBox="0 0 {width} {height}" role="img" '
    f'aria-label="accuracy by level of noise">{"".join(parts)}</svg></figure>'
  )


def _accuracies(rows: Sequence[studies.Row], table: studies.Table) -> str:
  domains = [*_domains(table), scores.MACRO]
  lines = []
  for row in rows:
    numbers = table.rows[row.label]
    whole = numbers.get(scores.ALL)
    cells = []
    for domain in domains:
      x = numbers.get(domain)
      cells.append(
        f'{100 * x["accuracy"]:.1f}<small>{100 * x["low"]:.1f}–'
        f'{100 * x["high"]:.1f}</small>' if x else '–'
      )  # fmt: skip
    seeds = whole['by_seed'] if whole else {}
    by_seed = ', '.join(f'{100 * x:.1f}' for x in seeds.values()) or '–'
    score = f'{whole["score"]:.2f}' if whole else '–'
    n = f'{whole["n"]:,}' if whole else '–'
    lines.append(page.row(page.escape(row.label), *cells, score, by_seed, n))
  head = [*_heads(domains), 'score', 'each seed', 'n']
  return page.table(head, lines) + page.quiet(
    'Percent of right answers, mean over seeds, with 95&#8239;% intervals.'
  )


def _all_differences(rows: Sequence[studies.Row], table: studies.Table) -> str:
  domains = [*_domains(table), scores.MACRO]
  lines = []
  for row in rows:
    numbers = table.rows[row.label]
    if not row.against:
      continue
    cells = []
    for domain in domains:
      x = numbers.get(domain, {})
      cells.append(
        f'{x["difference"]:+.1f}<small>{x["difference_low"]:+.1f} to '
        f'{x["difference_high"]:+.1f}</small>'.replace('-', '−')
        if 'difference' in x else '–'
      )  # fmt: skip
    whole = numbers.get(scores.ALL, {})
    cells.append(page.escape(_relative(whole)).replace('-', '−'))
    cells.append(
      f'{100 * whole["changed"]:.0f}&#8239;%' if 'changed' in whole else '–'
    )
    label = f'{page.escape(row.label)}<small>{page.escape(row.against)}</small>'
    lines.append(page.row(label, *cells))
  head = [*_heads(domains), 'in percent', 'other answers']
  return page.table(head, lines) + page.quiet(
    'Percentage points to the row in small letters, on the same questions and '
    'by models of the same seed, with 95&#8239;% intervals of drawing records.'
  )


def _heads(domains: Sequence[str]) -> list[str]:
  return [x.replace(scores.MACRO, 'mean of domains') for x in domains]
