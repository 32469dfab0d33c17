"""What the task asks, finds and writes; audit/ knows what a difference is."""

import dataclasses
import json
import math
import os
import shutil

import numpy as np
import presets
import pytest

from vimonet_jax import auditing, claim, evaluation, weight_files
from vimonet_jax import corpus as corpora
from vimonet_jax.eval import own_items
from vimonet_jax.synthetic import people, world

# Of three sizes 21 each, of a third skin 9.
CLIPS = 63


def _config(**changes):
  return presets.load(
    'tiny',
    'smoke',
    data__train=6,
    data__val=4,
    data__test=24,
    data__image_size=24,
    data__processes=1,
    **{'audit__clips': CLIPS, **changes},
  )


class Engine:
  """Knows all answers, but for those about people whom it has no eye for."""

  def __init__(self, known, is_blind):
    self._known, self._is_blind = known, is_blind
    self.asked = []

  def answer(self, prompts, **options):
    del options
    self.asked += [prompt.id for prompt in prompts]
    return [
      'Who knows?'
      if self._is_blind(prompt.id)
      else self._known.get(prompt.id, 'A person walks.')
      for prompt in prompts
    ]


def _who(item_id: str) -> people.Person | None:
  """Whom an item is about; 'person-test-000004-gait/2' is about a twin."""
  name, *rest = item_id.partition('/')[0].split('-')
  if name != 'person':
    return None
  index = int(rest[1])
  return people.twin(index, rest[2]) if rest[2:] else people.person(index)


@pytest.fixture(scope='module')
def finished(tmp_path_factory, tiny_model):
  """A work folder with data and a model, and the right answers."""
  folder = tmp_path_factory.mktemp('finished')
  config = _config()
  corpora.build(config, str(folder))
  claim.write(config, str(folder))
  shutil.copytree(f'{tiny_model.workdir}/model', folder / 'model')
  drawn = world.World(image_size=24)
  told = [
    people.conversation(drawn, 'test', i, attribute)
    for attribute in ('', *people.ATTRIBUTES)
    for i in range(CLIPS)
  ]
  own = corpora.open_split(config, str(folder), 'test')
  known = {
    item.id: item.reference
    for some in (told, [own[i] for i in range(len(own))])
    for item in own_items.questions(some, per_domain=10**9)
  }
  return folder, known


@pytest.fixture
def audit(finished, tmp_path, monkeypatch):
  """Audits a copy of the folder; returns it, and the engine that was asked."""
  folder, known = finished
  shutil.copytree(folder, tmp_path / 'run')

  def record(*which):
    # Nobody looks at it.
    return dataclasses.replace(
      people.conversation(*which),
      motion=np.zeros((40, 263), np.float32),
      frames=np.zeros((8, 24, 24, 3), np.uint8),
    )

  monkeypatch.setattr(auditing.people, 'record', record)

  def run(is_blind=lambda item_id: False, **changes):
    engine = Engine(known, is_blind)
    monkeypatch.setattr(
      evaluation.engine.Engine, 'load', lambda *args, **options: engine
    )
    assert auditing.run(_config(**changes), str(tmp_path / 'run')) == 0
    return tmp_path / 'run', engine

  return run


def _found(folder):
  told = json.loads((folder / 'audit.json').read_text())
  return [
    (c['attribute'], c['group']) for c in told['comparisons'] if c['is_found']
  ]


def test_a_model_that_is_worse_with_one_build_is_found_out(audit, capsys):
  folder, _ = audit(lambda name: (who := _who(name)) and who.size == 'large')
  assert _found(folder / 'audit') == [('size', 'large')]
  said = capsys.readouterr().out
  assert '1 difference at the 5 % level among ' in said
  assert 'body size large: 100.0 points fewer right answers' in said
  for name in ('audit.html', 'model_card.html', 'model_card.md'):
    text = (folder / 'audit' / name).read_text()
    assert 'body size large: 100.0 points fewer right answers' in text
  assert 'skin colour light' not in said
  page = (folder / 'audit' / 'audit.html').read_text()
  assert 'skin colour dark (9, vimos-people)' in page, 'too few to compare'


def test_who_is_alike_with_all_is_found_nowhere_but_a_drill_is(audit, capsys):
  folder, _ = audit()
  assert _found(folder / 'audit') == []
  assert 'No difference at the 5 % level among' in capsys.readouterr().out
  folder, engine = audit(audit__drill='size=large')
  assert not engine.asked, 'the questions are the same'
  assert _found(folder / 'audit-drill') == [('size', 'large')]
  assert 'A drill: a third' in capsys.readouterr().out
  assert (
    'A drill: a third' in (folder / 'audit-drill' / 'audit.html').read_text()
  )
  assert sorted(os.listdir(folder / 'audit-drill')) == [
    'audit.html',
    'audit.json',
  ], 'and no card'


def test_answers_of_the_evaluation_are_not_asked_for_again(audit):
  folder, engine = audit(audit__clips=0)
  own = set(engine.asked)
  assert own
  assert len(engine.asked) <= 2 * len(own), 'once, and in a mirror'
  assert not audit(audit__clips=0)[1].asked
  assert (folder / 'predictions' / 'vimos-synth.jsonl').exists()


def test_two_audits_of_one_folder_do_not_write_the_same_answers(
  audit, monkeypatch
):
  ask, said = evaluation.ask, []

  def ask_twice(*args):
    monkeypatch.setattr(evaluation, 'ask', ask)
    with pytest.raises(ValueError, match='nobody else to audit .*found proc'):
      audit(audit__clips=0, audit__drill='place=gym')
    said.append('refused')
    return ask(*args)

  monkeypatch.setattr(evaluation, 'ask', ask_twice)
  folder, _ = audit(audit__clips=0)
  assert said == ['refused']
  assert not (folder / 'audit-drill').exists()
  audit(audit__clips=0)  # Who has ended leaves no lock.


def test_the_card_says_what_is_in_the_folder(audit):
  folder, _ = audit(audit__clips=0)
  card = (folder / 'audit' / 'model_card.md').read_text()
  shapes = weight_files.Lazy(str(folder / 'model' / 'weights')).shapes
  assert f'| all | {sum(map(math.prod, shapes.values())):,} |' in card
  assert '| train | 6 | 6 |' in card
  assert '| Apache-2.0 | vimos/synthetic (34) |' in card
  assert '| motion | not trained here |' in card
  assert 'Nobody has evaluated it: --task=eval does.' in card


def test_captions_are_as_right_as_their_words(audit):
  folder, _ = audit(audit__clips=0, eval__benchmarks=('captions',))
  told = json.loads((folder / 'audit' / 'audit.json').read_text())
  assert told['sets']['captions'] == {
    'answers': 24,
    'clips': 24,
    'pairs': 0,
    'input': 'motion',
    'measure': 'ROUGE-L',
  }


@pytest.mark.parametrize(
  ('drill', 'words'),
  [
    ('large', 'ATTRIBUTE=GROUP, found .large.'),
    (
      'size=tall',
      'found size=tall, and of size there is average, large, small',
    ),
    ('shape=round', 'found shape=round, and of shape there is none'),
  ],
)
def test_a_drill_that_nobody_is_in_is_refused(audit, drill, words):
  with pytest.raises(ValueError, match=words):
    audit(audit__drill=drill)


def test_a_configuration_without_an_audit_is_refused(finished):
  config = _config()
  del config.audit
  with pytest.raises(ValueError, match='with config.audit, found none'):
    auditing.run(config, str(finished[0]))


def test_a_folder_without_a_model_is_refused(finished, tmp_path):
  config = _config()
  claim.write(config, str(tmp_path))
  with pytest.raises(FileNotFoundError, match='a finished model'):
    auditing.run(config, str(tmp_path))
