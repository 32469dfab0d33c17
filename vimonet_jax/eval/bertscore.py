"""BERTScore of captions (Zhang et al. 2020), as tables of HumanML3D print it.

F1 of contextual embeddings that are matched greedily, of the best reference,
with idf weights from all references, so that a slice of the cases has other
values than the whole.
"""

import dataclasses
from collections.abc import Sequence

_MODEL, _LAYER = 'roberta-large', 17
# F1 of sentences that have nothing to do with each other, for that model and
# layer. Printed values are rescaled so that this is 0 and a perfect 1 stays 1.
BASELINE = 0.83122575


@dataclasses.dataclass(frozen=True)
class Bertscore:
  """Mean F1 of captions.

  Attributes:
    raw: as the embeddings give it, seldom below .8.
    n: captions.
  """

  raw: float
  n: int

  @property
  def rescaled(self) -> float:
    """What tables print, times 100; below 0 is worse than unrelated."""
    return rescaled(self.raw)


def rescaled(raw: float) -> float:
  """(raw - b) / (1 - b) with b the `BASELINE`."""
  return (raw - BASELINE) / (1 - BASELINE)


def score(
  predictions: Sequence[str],
  references: Sequence[Sequence[str]],
  *,
  device: str | None = None,
) -> Bertscore:
  """Mean F1 by the package bert-score.

  Args:
    predictions: one a case.
    references: several a case, padded to three as published: idf weights count
      a reference as often as it is there.
    device: of PyTorch; a GPU where there is one if None.

  Raises:
    ImportError: the package is not installed.
  """
  if len(predictions) != len(references) or not predictions:
    raise ValueError(
      'Expected one prediction for each case, found '
      f'{len(predictions)} for {len(references)} cases.'
    )
  if not all(references):
    raise ValueError(
      'Expected references for every case, found none for case '
      f'{[bool(texts) for texts in references].index(False)}.'
    )
  try:
    import bert_score
  except ImportError as e:
    raise ImportError(
      'Expected the package bert-score, found none; pip install -e '
      "'.[bertscore]'."
    ) from e
  _, _, f1_N = bert_score.score(
    list(predictions),
    [list(texts) for texts in references],
    # What it takes for English; named because the baseline belongs to it.
    model_type=_MODEL,
    num_layers=_LAYER,
    idf=True,
    device=device,
  )
  return Bertscore(float(f1_N.mean()), len(predictions))
