"""Numbers that papers print for the benchmarks here, to stand beside our own.

They are typed as printed. What a table does not have is None, which reads "not
available": most numbers of ViMoNet itself are not printed in the paper's third
version. `REMARKS` are what one must know before comparing.
"""

import dataclasses
import types
from collections.abc import Iterable, Mapping, Sequence

from vimonet_jax.eval import (
  humanml3d_captions,
  mv_bench,
  scores,
  vimonet_bench,
)

MOTION = 'movid-bench-motion'
VIDEO = 'movid-bench-video'
BABEL = 'babel-qa'
ACTIVITYNET = 'activitynet-qa'
MVBENCH = 'mvbench'
CAPTIONS = humanml3d_captions.BENCHMARKS[humanml3d_captions.RAW]
TOKENS = humanml3d_captions.BENCHMARKS[humanml3d_captions.PROCESSED]
RETRIEVAL = 'humanml3d-retrieval'
ABLATION_MOTION = 'ablation-motion'
ABLATION_VIDEO = 'ablation-video'

# What values are.
ACCURACY = 'accuracy'
SCORE = 'score'  # Of a judge, 0 to 5.
CAPTION = 'caption metrics'  # Columns as in scores.METRICS, and BERTScore.
DISTANCE = 'retrieval metrics'  # R@k are shares, MM-dist is a distance.

# Items by domain, or by the type of a question on the test split.
ITEMS: Mapping[str, Mapping[str, int]] = types.MappingProxyType({
  MOTION: vimonet_bench.COMPOSITION['motion'],
  VIDEO: vimonet_bench.COMPOSITION['video'],
  BABEL: {
    'action': 261, 'direction': 72, 'body_part': 60,
    'before': 124, 'after': 124, 'other': 145,
  },
})  # fmt: skip

_JUDGE = (
  'Judged by an unnamed snapshot of gpt-3.5-turbo, which does not answer the '
  'same twice: compare numbers of one judge only.'
)
REMARKS: Mapping[str, tuple[str, ...]] = types.MappingProxyType({
  MOTION: (
    'Printed as "all", and the mean over items.',
    _JUDGE,
    'Some denominators are less than the item counts: 50.49 and 24.51 are 103 '
    'and 50 of 204 items, not of 205, so failures were left out.',
    'MotionLLM speaks of a gain of 38 % over MotionGPT; 49.50 / 36.86 is '
    '34.3 %.',
  ),
  VIDEO: (
    'Printed as "all", and the mean of the five domains; by items MotionLLM '
    'has 44.84 and Video-LLaVA 38.45. GPT-3.5 is by items.',
    _JUDGE,
    'Accuracies for hallucination such as 70.59 and 64.71 are 12 and 11 of 17 '
    'items, not of 39, so failures were left out.',
  ),
  BABEL: (
    'Answers of 2s-AGCN and MotionCLIP are chosen from those of the type of '
    'the question, those of MotionLLM are generated freely.',
    'Weighted by the items of each type, the rows of 2s-AGCN and MotionCLIP '
    'give what is printed for all, those of MotionLLM do not; weighted by '
    'relation, no published row does.',
  ),
  ACTIVITYNET: (
    _JUDGE,
    'One set of predictions went from 35.2 to 43.6 when it was judged again.',
  ),
  MVBENCH: (
    'The mean of seven tasks; with which prompt MotionLLM answered is unknown.',
  ),
  CAPTIONS: (
    'References are raw captions; see humanml3d-captions-tokens for the other '
    'kind, which has other numbers.',
    'CIDEr weighs words by the cases at hand: compare all 4,400 only.',
  ),
  TOKENS: (
    'References are lemmatised words: never beside those of raw captions.',
  ),
  RETRIEVAL: (
    'A generated caption can beat a real one: this is no accuracy.',
  ),
  ABLATION_MOTION: (
    'ViMoNet claims 30.1 % for motion from video data, without a table.',
  ),
  ABLATION_VIDEO: (
    'ViMoNet claims 15.6 % for video from motion data, without a table.',
    'Printed as "all", and the mean of the five domains.',
  ),
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Published:
  """One row of a published table.

  Attributes:
    benchmark: one of `BENCHMARKS`.
    system: what was measured.
    metric: what the values are: `ACCURACY`, `SCORE`, `CAPTION` or `DISTANCE`.
    values: by column, as printed; None is not available. Sums over domains are
      `scores.ALL` (over items) and `scores.MACRO` (over domains), whatever the
      table calls them.
    source: where it is printed.
    scale: 100 where shares are printed in percent, else 1.
    is_comparable: whether the protocol is ours, as far as anybody knows.
    note: what to know about this row.
  """

  benchmark: str
  system: str
  metric: str
  values: Mapping[str, float | None]
  source: str
  scale: int = 1
  is_comparable: bool = True
  note: str = ''

  def share(self, column: str) -> float | None:
    """A value with 1 for 100 percent; None where it is not available."""
    value = self.values.get(column)
    return None if value is None else value / self.scale


_MOTIONLLM = 'MotionLLM (arXiv 2405.20340 v1), Table {}'
_VIMONET = 'ViMoNet (arXiv 2508.09818 v3)'
_SECONDARY = 'secondary: another paper or notes'
_UNPRINTED = 'Not printed in the third version of the paper.'
# What a row has where nothing is printed.
_NOTHING = (None,) * 6


def of(benchmark: str, *, metric: str = '') -> list[Published]:
  """Rows of a benchmark in the order of its table, of one metric or of all.

  Raises:
    ValueError: the benchmark is none of `BENCHMARKS`.
  """
  if benchmark not in BENCHMARKS:
    raise ValueError(
      f'Expected a benchmark of {", ".join(BENCHMARKS)}, found {benchmark!r}.'
    )
  return [
    row
    for row in ROWS
    if row.benchmark == benchmark and metric in ('', row.metric)
  ]


def find(benchmark: str, system: str, metric: str) -> Published:
  """The first row of a system.

  Raises:
    ValueError: there is none.
  """
  rows = of(benchmark, metric=metric)
  for row in rows:
    if row.system == system:
      return row
  raise ValueError(
    f'Expected a system of {", ".join(row.system for row in rows)} in '
    f'{benchmark} ({metric}), found {system!r}.'
  )


def _row(
  benchmark: str,
  system: str,
  metric: str,
  columns: Iterable[str],
  values: Iterable[float | None],
  source: str,
  **rest,
) -> Published:
  named = types.MappingProxyType(dict(zip(columns, values, strict=True)))
  return Published(benchmark, system, metric, named, source, **rest)


def _judged(
  benchmark: str,
  system: str,
  accuracies: Sequence[float | None],
  judged: Sequence[float | None],
  source: str,
  *,
  total: str,
  note: str = '',
) -> list[Published]:
  """Accuracies in percent and scores, five domains and their sum each."""
  columns = (*vimonet_bench.DOMAINS, total)
  return [
    _row(
      benchmark, system, ACCURACY, columns, accuracies, source, scale=100,
      note=note,
    ),
    _row(benchmark, system, SCORE, columns, judged, source, note=note),
  ]  # fmt: skip


def _motion(*row, benchmark: str = MOTION, note: str = '') -> list[Published]:
  return _judged(benchmark, *row, total=scores.ALL, note=note)


def _video(
  *row, benchmark: str = VIDEO, total: str = scores.MACRO, note: str = ''
) -> list[Published]:
  return _judged(benchmark, *row, total=total, note=note)


_T4, _T8, _T9 = (_MOTIONLLM.format(number) for number in (4, 8, '4 and 9'))

# fmt: off
_MOVID = [
  *_motion('ground truth', (100,) * 6, (5,) * 6, _T4),
  *_motion(
    'GPT-3.5, text only',
    (24.51, 30.41, 27.14, 39.19, 58.33, 31.33),
    (2.04, 2.25, 2.19, 2.64, 3.22, 2.31),
    _T4, note='How it was asked is unknown.',
  ),
  *_motion(
    'MotionGPT',
    (31.22, 42.69, 44.29, 35.81, 16.66, 36.86),
    (3.98, 3.16, 3.50, 3.06, 2.25, 3.11),
    _T4, note='The score 3.98 is probably a misprint of 2.98, with which the '
    'mean over items is 3.11.',
  ),
  *_motion(
    'MotionLLM',
    (50.49, 36.84, 58.57, 52.70, 55.56, 49.50),
    (3.55, 3.14, 3.76, 3.58, 3.39, 3.49),
    _T4,
  ),
  *_motion(
    'LLaMo', (*[None] * 5, 55.32), (*[None] * 5, 3.67), _SECONDARY,
    note='Which of the two means it is, is not said.',
  ),
  *_motion(
    'ViMoNet', _NOTHING, _NOTHING, _VIMONET,
    note=f'{_UNPRINTED} The highest of its table; about 51.4 if its +39.4 % is '
    'relative to MotionGPT.',
  ),
  *_video(
    'GPT-3.5, text only',
    (2.40, 1.39, 4.65, 5.41, 0.00, 3.03),
    (1.23, 1.00, 1.09, 1.65, 0.94, 1.26),
    _T9, total=scores.ALL,
    note='Unlike the other rows the mean over items, with 17 of hallucination.',
  ),
  *_video(
    'Video-LLaVA',
    (33.53, 25.46, 41.86, 52.97, 58.83, 42.53),
    (2.76, 2.72, 2.84, 3.28, 1.89, 2.70),
    _T9,
  ),
  *_video(
    'Video-LLaMA',
    (32.90, 28.20, 41.87, 59.46, 53.95, 43.28),
    (2.81, 2.81, 2.95, 3.42, 1.89, 2.77),
    _T9,
  ),
  *_video(
    'VideoChat',
    (41.21, 28.21, 32.73, 46.34, 62.13, 42.12),
    (2.93, 2.81, 2.78, 3.15, 2.21, 2.79),
    _T9, note='The mean of the five scores is 2.78, not 2.79.',
  ),
  *_video(
    'VideoChat2',
    (43.11, 31.60, 34.88, 48.65, 64.71, 44.59),
    (3.11, 2.91, 3.05, 3.22, 2.12, 2.88),
    _T9,
  ),
  *_video(
    'MotionLLM',
    (34.13, 32.87, 44.18, 63.20, 70.59, 49.00),
    (2.93, 2.92, 3.14, 3.55, 2.30, 2.97),
    _T9, note='Table 8 has 48.94 for the same run.',
  ),
  *_video(
    'LLaMo', (*[None] * 5, 52.33), (*[None] * 5, 3.10), _SECONDARY,
    note='Which of the two means it is, is not said.',
  ),
  *_video(
    'ViMoNet', _NOTHING, _NOTHING, _VIMONET,
    note=f'{_UNPRINTED} About 49.2 if its +15.6 % is relative to Video-LLaVA.',
  ),
]

_ABLATION = [
  *_motion(
    'MotionLLM, motion only',
    (35.29, 39.18, 53.57, 34.45, 11.11, 38.48),
    (2.77, 2.90, 3.25, 2.77, 2.00, 2.86),
    _T8, benchmark=ABLATION_MOTION,
  ),
  *_motion(
    'MotionLLM, both, unpaired',
    (47.55, 46.20, 46.43, 53.38, 44.44, 48.07),
    (3.54, 3.26, 3.49, 3.63, 3.08, 3.50),
    _T8, benchmark=ABLATION_MOTION,
    note='The mean score over items is 3.46, not 3.50.',
  ),
  *_motion(
    'MotionLLM, both, paired',
    (50.49, 36.84, 58.57, 52.70, 55.56, 49.50),
    (3.55, 3.14, 3.76, 3.58, 3.39, 3.49),
    _T8, benchmark=ABLATION_MOTION,
  ),
  *_motion(
    'ViMoNet', _NOTHING, _NOTHING, _VIMONET, benchmark=ABLATION_MOTION,
    note=_UNPRINTED,
  ),
  *_video(
    'MotionLLM, video only',
    (33.53, 25.46, 41.86, 52.97, 58.83, 42.53),
    (2.76, 2.72, 2.84, 3.28, 1.89, 2.70),
    _T8, benchmark=ABLATION_VIDEO, note='It is the row of Video-LLaVA.',
  ),
  *_video(
    'MotionLLM, both, unpaired',
    (31.74, 28.70, 32.56, 49.73, 64.71, 41.49),
    (2.80, 2.69, 2.78, 3.21, 2.29, 2.75),
    _T8, benchmark=ABLATION_VIDEO,
  ),
  *_video(
    'MotionLLM, both, paired',
    (34.13, *[None] * 4, 48.94),
    (2.93, *[None] * 4, 2.97),
    _T8, benchmark=ABLATION_VIDEO, note='Table 4 has 49.00 for the same run.',
  ),
  *_video(
    'ViMoNet', _NOTHING, _NOTHING, _VIMONET, benchmark=ABLATION_VIDEO,
    note=_UNPRINTED,
  ),
]

_T5 = _MOTIONLLM.format(5)
_TEN = 'Every question has ten given options.'
_BABEL = [
  _row(
    BABEL, system, ACCURACY, (scores.ALL, *ITEMS[BABEL]), values, source,
    is_comparable=note != _TEN, note=note,
  )
  for system, values, source, note in (
    ('2s-AGCN-M', (.355, .384, .352, .228, .331, .264, .295), _T5, ''),
    ('2s-AGCN-R', (.357, .396, .352, .194, .337, .301, .285), _T5, ''),
    ('MotionCLIP-M', (.430, .485, .361, .272, .372, .321, .404), _T5, ''),
    ('MotionCLIP-R', (.420, .489, .310, .250, .398, .314, .387), _T5, ''),
    ('MotionLLM', (.372, .396, .417, .154, .329, .353, .338), _T5, ''),
    ('MotionLLM, tuned on BABEL-QA',
     (.436, .517, .354, .154, .427, .368, .529), _T5, ''),
    ('LLaMo', (.458, *_NOTHING), _SECONDARY, ''),
    ('IMoRe, ten options', (.601, *_NOTHING), _SECONDARY, _TEN),
    ('SMD, ten options', (.667, *_NOTHING), _SECONDARY, _TEN),
    ('ViMoNet', (None, *_NOTHING), _VIMONET,
     f'{_UNPRINTED} "Competitive", and better after tuning.'),
    ('most frequent answers',
     (.3410, .3563, .3194, .3000, .3065, .3790, .3379),
     'counted: walk, forward and right hand, chosen on train', ''),
  )
]

_T2 = f'{_VIMONET}, Table II'
_ACTIVITYNET = [
  row
  for system, accuracy, score, source, note in (
    ('FrozenBiLM', 24.7, None, _T2, ''),
    ('VideoChat', None, 2.2, _T2, ''),
    ('VideoChat', 26.5, None, 'README of Video-ChatGPT', ''),
    ('LLaMA-Adapter', 34.2, 2.7, _T2, ''),
    ('Video-LLaMA', 12.4, 1.1, _T2, ''),
    ('Video-ChatGPT', 35.2, 2.7, _T2, ''),
    ('Video-LLaVA', 45.3, 3.3, _T2, ''),
    ('VideoChat2', 49.1, 3.3, _T2, ''),
    ('MotionLLM', 53.3, 3.52, 'MotionLLM (arXiv 2405.20340 v1)', ''),
    ('ViMoNet', 53.5, 3.53, _T2,
     'Its gains of 9 and 7 % are over VideoChat2, and relative.'),
  )
  for row in (
    _row(ACTIVITYNET, system, ACCURACY, [scores.ALL], [accuracy], source,
         scale=100, note=note),
    _row(ACTIVITYNET, system, SCORE, [scores.ALL], [score], source, note=note),
  )
]

_TASKS = {task.abbreviation: task.name for task in mv_bench.TASKS}
_T6 = _MOTIONLLM.format(6)
_MVBENCH = [
  _row(
    MVBENCH, system, ACCURACY,
    (*(_TASKS[a] for a in ('AL', 'AP', 'AS', 'EN', 'FA', 'FP', 'UA')),
     scores.MACRO),
    values, source, scale=100, note=note,
  )
  for system, values, source, note in (
    ('Otter-V', (23.5, 23.0, 23.0, 23.5, 27.0, 22.0, 29.5, 24.5), _T6, ''),
    ('mPLUG-Owl-V', (23.0, 28.0, 22.0, 26.0, 29.0, 24.0, 29.0, 25.8), _T6,
     'The mean is 25.86; printed cut, not rounded.'),
    ('Video-ChatGPT', (20.0, 26.0, 23.5, 29.5, 22.5, 29.0, 26.5, 25.2), _T6,
     'The mean is 25.29; printed cut, not rounded.'),
    ('Video-LLaMA', (22.5, 25.5, 27.5, 30.0, 29.0, 32.5, 39.0, 29.4), _T6, ''),
    ('VideoChat', (27.0, 26.5, 33.5, 23.5, 33.5, 26.5, 40.5, 30.1), _T6, ''),
    ('Video-LLaVA', (22.5, 25.5, 29.5, 29.0, 24.5, 28.5, 24.5, 26.3), _T6, ''),
    ('MotionLLM', (33.0, 29.5, 32.5, 29.0, 31.5, 28.5, 37.5, 31.6), _T6, ''),
    ('ViMoNet', (None,) * 8, _VIMONET, _UNPRINTED),
  )
]

_STORED = 'computed from outputs stored in ZeyuLing/Motius, 4,400 cases'
_RERUN = 'ZeyuLing/Motius'
_OTHER_TOOLS = (
  'Other outputs, cases or tools: MotionGPT prints 48.20 for BLEU-1 where its '
  'stored outputs have 46.05.'
)
_CAPTIONS = [
  *(
    _row(CAPTIONS, system, CAPTION, scores.METRICS, values, _STORED)
    for system, values in (
      ('TM2T', (.491238, .306573, .151762, .075974, .380794, .171853)),
      ('MotionGPT', (.460494, .299783, .189050, .121049, .384904, .340930)),
      ('MotionGPT3', (.538316, .368213, .243030, .160503, .416454, .407711)),
      ('VerMo', (.525433, .365940, .242683, .160890, .422328, .400626)),
      ('UniMuMo', (.448843, .289189, .190723, .127078, .356033, .311441)),
    )
  ),
  *(
    _row(CAPTIONS, system, CAPTION, ['BERTScore'], [value], _RERUN, scale=100)
    for system, value in (
      ('TM2T', 32.15), ('MotionGPT', 33.88), ('MotionGPT3', 34.25),
    )
  ),
  *(
    _row(
      CAPTIONS, system, CAPTION,
      ('BLEU_1', 'BLEU_4', 'ROUGE_L', 'CIDEr', 'BERTScore'), values, source,
      scale=100, is_comparable=False, note=_OTHER_TOOLS,
    )
    for system, values, source in (
      ('TM2T', (48.90, 8.27, 38.1, 15.80, 32.2), _SECONDARY),
      ('MotionGPT', (48.20, 12.47, 37.4, 29.20, 32.4), _SECONDARY),
      ('MotionChain', (48.10, 12.56, 33.9, 33.70, 36.9), _SECONDARY),
      ('Motion-Agent', (54.53, 17.65, 48.7, 33.74, 42.63),
       'Motion-Agent (arXiv 2405.17013), Table 2'),
    )
  ),
  *(
    _row(TOKENS, system, CAPTION, ('BLEU_1', 'CIDEr'), values, _RERUN,
         scale=100)
    for system, values in (
      ('TM2T', (61.05, 72.53)), ('MotionGPT', (39.71, 7.82)),
    )
  ),
  *(
    _row(RETRIEVAL, system, DISTANCE, ('R@1', 'R@2', 'R@3', 'MM-dist'), values,
         _RERUN)
    for system, values in (
      ('real captions', (.507, .706, .804, 2.978)),
      ('TM2T', (.518, .718, .808, 2.958)),
      ('MotionGPT', (.509, .688, .778, 3.112)),
      ('MotionGPT3', (.533, .718, .804, 2.853)),
    )
  ),
]
# fmt: on

ROWS: tuple[Published, ...] = (
  *_MOVID,
  *_ABLATION,
  *_BABEL,
  *_ACTIVITYNET,
  *_MVBENCH,
  *_CAPTIONS,
)
BENCHMARKS: tuple[str, ...] = tuple(dict.fromkeys(r.benchmark for r in ROWS))
