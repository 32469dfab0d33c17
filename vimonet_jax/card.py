"""A card of a built dataset: what is in it, where from, under which licence.

card.json  the numbers, as data.contents counts them
card.html  one page that shows them and needs nothing but itself
"""

import collections
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import tqdm

from vimonet_jax import page
from vimonet_jax.data import contents, dataset, records

_MOST_NAMED = 10


def write(
  data_dir: str,
  name: str,
  folder: str,
  *,
  survey: str = '',
  progress: bool = True,
) -> str:
  """Reads a dataset once and writes its card; returns the page's path.

  Args:
    data_dir: as given to builder.build.
    name: of the dataset's config.
    folder: of the card; made where it is missing.
    survey: what was said before the build; see data.survey.text.
    progress: shows a bar.

  Raises:
    FileNotFoundError: there is no such dataset.
    ValueError: its description is damaged.
  """
  path = os.fspath(dataset.folder(data_dir, name))
  if not os.path.isdir(path):
    raise FileNotFoundError(
      f'Expected a dataset in {path}, found none; build it first.'
    )
  info = dataset.describe(path).info
  splits = {split: dataset.Source(path, split) for split in info.splits}
  damaged: list[str] = []
  with tqdm.tqdm(
    desc='card',
    total=sum(map(len, splits.values())),
    unit='record',
    disable=not progress,
  ) as bar:
    counted = contents.count(
      {split: _sound(source, damaged, bar) for split, source in splits.items()}
    )
  found = {
    'name': name,
    'version': dataset.VERSION,
    'settings': dict(info.metadata or {}),
    'survey': survey,
    'damaged': damaged,
    **counted,
  }
  os.makedirs(folder, exist_ok=True)
  text = json.dumps(found, indent=2, ensure_ascii=False)
  _replace(os.path.join(folder, 'card.json'), text + '\n')
  return _replace(os.path.join(folder, 'card.html'), html(found))


def _sound(
  source: dataset.Source, damaged: list[str], bar
) -> Iterator[records.Record]:
  """Records that can be read; the others are named."""
  for number in range(len(source)):
    bar.update()
    try:
      yield source[number]
    except records.CorruptError as error:
      damaged.append(f'{error.where}: {error.what}')


def _replace(path: str, text: str) -> str:
  with open(f'{path}.part', 'w', encoding='utf-8') as f:
    f.write(text)
  os.replace(f'{path}.part', path)
  return path


# --- The page ----------------------------------------------------------------


def html(found: Mapping[str, Any]) -> str:
  """The page of a card; `found` is what card.json holds."""
  name = page.escape(found['name'])
  return page.document(
    f'Dataset {found["name"]}',
    f'<header><h1>{name}</h1>'
    + page.quiet(f'dataset card, version {page.escape(found["version"])}')
    + '</header>'
    + _lead(_total(found['splits']))
    + page.section('How much', _amounts(found['splits']), *_faults(found))
    + page.section('Sources', *_sources(found['sources']))
    + page.section('What turns are about', _domains(found['domains']))
    + page.section('Lengths', _histograms(found['lengths']))
    + page.section('Words of the answers', *_words(found['words']))
    + page.section('Licences and provenance', *_provenance(found))
    + page.section('How it was built', *_built(found)),
  )


def _lead(total: Mapping[str, float]) -> str:
  hours = ' and '.join(
    f'{_hours(total[f"{medium}_hours"])} of {medium}'
    for medium in ('motion', 'video')
    if total[f'{medium}_hours']
  )
  return (
    f'<p class="lead">{total["records"]:,} records with {total["turns"]:,} '
    f'questions and answers about {total["clips"]:,} clips'
    f'{f": {hours}" if hours else ""}.</p>'
  )


_COLUMNS = {
  'records': 'records', 'turns': 'turns', 'clips': 'clips',
  'motion': 'motion', 'video': 'video', 'motion and video': 'both',
  'words only': 'words', 'motion_hours': 'hours of motion',
  'video_hours': 'hours of video',
}  # fmt: skip


def _amounts(rows: Mapping[str, Mapping[str, Any]]) -> str:
  """A table with the columns that are not all 0."""
  total = _total(rows)
  shown = [key for key in _COLUMNS if total[key]]

  def cells(row):
    return (
      f'{row.get(key, 0):.2f}' if 'hours' in key else f'{row.get(key, 0):,}'
      for key in shown
    )

  lines = [page.row(page.escape(name), *cells(rows[name])) for name in rows]
  if len(rows) > 1:
    lines.append(page.row('all', *cells(total), kind='sum'))
  return page.table([_COLUMNS[key] for key in shown], lines)


def _total(rows: Mapping[str, Mapping[str, Any]]) -> collections.Counter:
  total = collections.Counter()
  for row in rows.values():
    total.update(row)
  return total


def _faults(found: Mapping[str, Any]) -> list[str]:
  parts = []
  if both := found['clips_in_two_splits']['number']:
    first = ', '.join(found['clips_in_two_splits']['first'])
    parts.append(
      f'<p class="wrong">{both:,} clips are in two splits, so what is scored '
      f'was trained on: {page.escape(first)}.</p>'
    )
  else:
    parts.append(page.quiet('No clip is in two splits.'))
  if damaged := found['damaged']:
    parts.append(
      f'<p class="wrong">{len(damaged):,} records cannot be read: '
      f'{page.escape("; ".join(damaged[:_MOST_NAMED]))}.</p>'
    )
  unknown = sum(
    row.get('clips of unknown duration', 0) for row in found['splits'].values()
  )
  if unknown:
    parts.append(
      page.quiet(f'{unknown:,} videos do not say how long they are.')
    )
  return parts


def _sources(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """A row a source; their splits are a table each for those who open it."""
  totals = {source: _total(splits) for source, splits in rows.items()}
  if len(rows) == 1:
    return [page.quiet(f'All from {page.escape(next(iter(rows)))}.')]
  parts = [_amounts(totals)]
  for source, splits in rows.items():
    parts.append(page.details(page.escape(source), _amounts(splits)))
  return parts


def _domains(domains: Mapping[str, Mapping[str, int]]) -> str:
  splits = list(dict.fromkeys(s for some in domains.values() for s in some))
  totals = {name: sum(some.values()) for name, some in domains.items()}
  most = max(totals.values(), default=1)
  lines = []
  for name in sorted(totals, key=totals.get, reverse=True):
    share = f'<i style="width:{100 * totals[name] / most:.0f}%"></i>'
    cells = [f'{domains[name].get(split, 0):,}' for split in splits]
    lines.append(
      page.row(
        page.escape(name.replace('_', ' ')),
        *cells,
        f'{totals[name]:,}',
        page.Cell(share, 'class="share"'),
      )
    )
  return page.table([*map(page.escape, splits), 'all', ''], lines)


def _histograms(lengths: Mapping[str, Mapping[str, Any]]) -> str:
  parts = ''.join(_histogram(name, row) for name, row in lengths.items())
  return f'<div class="charts">{parts}</div>'


def _histogram(name: str, row: Mapping[str, Any]) -> str:
  """Bars as inline SVG; the last has all that is longer, marked by a +."""
  width, height, left, bottom, top = 300, 130, 6, 16, 18
  counts = row['counts']
  # Bars beyond the last that has something are no news.
  last = max(i for i, number in enumerate(counts) if number) + 1
  is_open, counts = last == len(counts), counts[:last]
  step, most = (width - 2 * left) / len(counts), max(counts)
  full, base = height - bottom - top, height - bottom
  parts = [
    f'<rect x="{left + i * step + 0.5:.1f}" width="{max(step - 1, 0.5):.1f}" '
    f'y="{base - number / most * full:.1f}" height="{number / most * full:.1f}"'
    ' style="fill:rgb(var(--tint) / .75)"/>'
    for i, number in enumerate(counts)
  ]
  parts.append(
    f'<line x1="{left}" x2="{width - left}" y1="{base}" y2="{base}"/>'
  )

  def text(place, y, words):
    anchor = 'middle' if 0.1 < place / len(counts) < 0.9 else 'start'
    anchor = 'end' if place >= 0.9 * len(counts) else anchor
    parts.append(
      f'<text x="{left + place * step:.1f}" y="{y}" text-anchor="{anchor}">'
      f'{words}</text>'
    )

  def edge(i):
    return f'{row["from"] + i * row["width"]:g}'

  text(0, height - 4, edge(0))
  text(len(counts) // 2, height - 4, edge(len(counts) // 2))
  ending = f'{edge(last - 1)}+' if is_open else edge(last)
  text(len(counts), height - 4, ending)
  peak = counts.index(most)
  text(peak + 0.5, top - 5, f'{most:,}')
  title = page.escape(name)
  return (
    f'<figure><figcaption>{title}<b>median {row["median"]:.3g}</b>'
    f'</figcaption><svg viewBox="0 0 {width} {height}" role="img" '
    f'aria-label="how many by {title}">{"".join(parts)}</svg>'
    + page.quiet(
      f'{row["least"]:.3g} to {row["most"]:.3g}, mean {row["mean"]:.3g}'
    )
    + '</figure>'
  )


def _words(words: Mapping[str, Any]) -> list[str]:
  different = words['different']
  parts = [
    page.quiet(
      f'{different["answers"]:,} different words in answers, '
      f'{different["questions"]:,} in questions. The most frequent in answers, '
      'without articles, pronouns and the like:'
    )
  ]
  if not words['frequent']:
    return [*parts, page.missing('There are no answers.')]
  most = words['frequent'][0][1]
  lines = [
    page.row(
      page.escape(word),
      f'{number:,}',
      page.Cell(
        f'<i style="width:{100 * number / most:.0f}%"></i>', 'class="share"'
      ),
    )
    for word, number in words['frequent']
  ]
  parts.append(page.table(('', ''), lines))
  pairs = [
    f'{page.escape(a)} {n:,}, {page.escape(b)} {m:,}'
    for (a, n), (b, m) in words['pairs']
    if n or m
  ]
  if pairs:
    parts.append(page.quiet(f'In balance or not: {"; ".join(pairs)}.'))
  return parts


def _provenance(found: Mapping[str, Any]) -> list[str]:
  lines = []
  for licence, some in found['licences'].items():
    named = ', '.join(f'{source} ({n:,})' for source, n in some.items())
    label = page.escape(licence)
    if licence == contents.NOT_STATED:
      label = f'<b class="wrong">{label}</b>'
    lines.append(page.row(label, page.escape(named)))
  parts = [page.table(('records',), lines)]
  for title, key in (
    ('Who or what wrote the words', 'generators'),
    ('Files of questions and answers', 'files'),
  ):
    if found[key]:
      rows = [
        page.row(page.escape(name), f'{number:,}')
        for name, number in found[key].items()
      ]
      parts += [f'<h3>{title}</h3>', page.table(('conversations',), rows)]
  return parts


def _built(found: Mapping[str, Any]) -> list[str]:
  settings = page.escape(json.dumps(found['settings'], indent=2))
  parts = [page.details('Settings', f'<pre>{settings}</pre>')]
  if found['survey']:
    survey = page.escape(found['survey'])
    parts.append(page.details('What was there before', f'<pre>{survey}</pre>'))
  else:
    parts.append(page.missing('No survey from before the build was given.'))
  return parts


def _hours(hours: float) -> str:
  return f'{hours:.1f} hours' if hours >= 1 else f'{60 * hours:.1f} minutes'
