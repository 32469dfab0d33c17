"""A user's folders of every kind become one dataset, and batches."""

import json
import pathlib

import presets
import pytest

pytest.importorskip('av', reason='needs the package av')

import vimos_folders

from vimonet_jax import corpus, pipeline, sharding
from vimonet_jax.data import builder, kin, motionx, survey


@pytest.fixture(scope='module')
def folders(tmp_path_factory, shared_data):
  return vimos_folders.Folders(tmp_path_factory.mktemp('vimos'), shared_data)


def _config(folders, **changes):
  return presets.load(
    'vimos',
    'smoke',
    **folders.changes,
    **{'data__processes': 1, 'text__vocab_size': 360, 'text__corpus': 60}
    | changes,
  )


@pytest.fixture(scope='module')
def made(folders):
  """The corpus, and the folder that its dataset lies in."""
  work = folders.root / 'work'
  found = corpus.prepare(_config(folders), str(work))
  return found, work / 'data' / 'vimos' / 'joined'


def _ids(made, split):
  return [(record.source, record.id) for record in made.splits[split]]


def test_every_source_is_in_the_dataset_and_keeps_its_licence(made):
  found, _ = made
  licences = {
    record.source: record.provenance['licence']
    for split in survey.SPLITS
    for record in found.splits[split]
  }
  assert sorted(licences) == [
    'amass', 'babel_qa', 'humanml3d', 'motionx', 'video_chatgpt'
  ]  # fmt: skip
  assert licences['video_chatgpt'] == 'CC BY-NC 4.0'
  both = [r for r in found.splits['train'] if r.source == 'motionx']
  assert [r.frames.shape for r in both] == [(8, 48, 48, 3)]
  assert both[0].provenance['duration_s'] == 2.95


def test_no_recording_is_in_two_splits_whichever_source_has_it(made, folders):
  found, _ = made
  tested = folders.splits['test']
  train = _ids(found, 'train')
  assert ('amass', tested[1]) not in train
  assert ('motionx', f'humanml/{tested[2]}') not in train
  # BABEL-QA's test shows the trial of this one; that of the other is train's.
  assert ('humanml3d', folders.splits['train'][2]) not in train
  assert ('humanml3d', folders.splits['train'][1]) in train
  assert ('babel_qa', '7/0') in train
  index = kin.read_index(folders.changes['data__index'])
  members = []
  for split in survey.SPLITS:
    for source, name in _ids(found, split):
      if source == 'motionx':
        cut = motionx.cut(name, start=0, stop=60)
      elif source in ('amass', 'humanml3d'):
        cut = kin.humanml3d(name.split('/')[0])
      else:
        continue
      cut = kin.resolve(cut, index)
      members.append(kin.Member(source, name, split, cut))
  assert len(members) == 19
  assert not kin.settle(members)


def test_the_survey_and_who_failed_lie_beside_the_dataset(made):
  found, folder = made
  text = (folder / builder.SURVEY).read_text()
  rows = [' '.join(line.split()) for line in text.splitlines()]
  for row in (
    'source split present missing unreadable left out turns',
    'humanml3d train 6 0 0 2 14',
    'humanml3d + questions train 1 0 0 0 3',
    'babel_qa test 0 0 0 1 0',
    'video_chatgpt - 0 1 1 0 0',
    'all 31 2 1 5 48',
  ):
    assert row in rows
  assert 'amass: 1 of train left out for a clip of test (1 the same' in text
  (line,) = (folder / builder.FAILED).read_text().splitlines()
  assert line.startswith('v11/0: ')
  assert 'v11.mp4: expected a whole video' in line
  assert sum(len(found.splits[split]) for split in survey.SPLITS) == 30


def test_the_card_tells_of_all_of_it(made):
  _, folder = made
  page = (folder / 'card.html').read_text()
  assert '30 records with 47 questions and answers' in page
  assert 'No clip is in two splits.' in page
  assert 'Records that could not be made:\nv11/0: ' in page
  card = json.loads((folder / 'card.json').read_text())
  assert len(card['licences']) == 5
  assert card['licences']['CC0'] == {'humanml3d': 1}
  assert card['licences']['CC BY-NC 4.0'] == {'video_chatgpt': 10}
  assert card['generators'] == {'clever-1': 1}


def test_written_questions_keep_what_follows_what(made, folders):
  found, _ = made
  name = folders.splits['train'][0]
  (record,) = [r for r in found.splits['train'] if r.id == f'{name}/0']
  assert [turn.follows for turn in record.turns] == [False, True, False]
  assert not record.provenance['in_order']


def test_batches_of_motion_and_of_video_come_of_it(made, folders):
  found, _ = made
  rows = {f'instruct__mixes__{mix}__rows': 8 for mix in ('motion', 'video')}
  config = _config(folders, **rows)
  mesh = sharding.make_mesh(**config.mesh)
  batches = iter(pipeline.stage_batches(config, 'instruct', found, mesh))
  seen, kinds = set(), set()
  for _ in range(6):
    batch = next(batches)
    kinds.add(('motion' in batch, 'frames' in batch))
    seen |= set('\n'.join(batch['ids']).split('\n'))
  assert kinds == {(True, False), (False, True)}
  assert seen <= {name for _, name in _ids(found, 'train')}
  assert {'v0/0', 'idea400/Eat_clip_1', '7/0'} <= seen


def test_words_stand_for_clips_that_have_captions(made):
  found, _ = made
  for number, record in enumerate(found.splits['train']):
    words = found.words('train', number)
    assert words.motion is words.frames is None
    domains = {turn.domain for turn in record.turns}
    if domains & {'motion_caption', 'video_caption'}:
      assert words.motion_text or words.video_text
      assert len(words.turns) == 1
    else:  # Of questions nobody knows what they say of the clip.
      assert words.motion_text is words.video_text is None
      assert words.turns == record.turns


def test_built_once_it_is_built_no_more_unless_a_source_changed(made, folders):
  _, folder = made
  files = [path for path in folder.rglob('*.*') if path.name != '.lock']
  before = [path.stat().st_mtime_ns for path in files]
  corpus.prepare(_config(folders), str(folders.root / 'work'))
  assert before == [path.stat().st_mtime_ns for path in files]
  questions = pathlib.Path(
    folders.changes['data__sources__humanml3d__qa_files'][0]
  )
  text = questions.read_text()
  questions.write_text(text.replace('Another one.', 'One more.'))
  with pytest.raises(ValueError, match=r'found parts\.2\.questions\.0='):
    corpus.prepare(_config(folders), str(folders.root / 'work'))
  questions.write_text(text)


def test_who_reads_the_dataset_need_not_name_its_sources(made, folders):
  found, _ = made
  config = presets.load('vimos', 'smoke')
  test = corpus.open_split(config, str(folders.root / 'work'), 'test')
  assert [(r.source, r.id) for r in test] == _ids(found, 'test')


def test_no_more_may_fail_than_the_settings_say(folders, tmp_path):
  with pytest.raises(ValueError, match='found 1, the last v11/0: .*failed'):
    corpus.build(_config(folders, data__max_failed=0), str(tmp_path))


def test_a_dataset_without_a_split_is_one_sentence(folders, tmp_path):
  changes = {
    f'data__sources__{name}': folders.changes[f'data__sources__{name}']
    for name in ('babel_qa__questions', 'babel_qa__split_file',
                 'babel_qa__motions')
  }  # fmt: skip
  config = presets.load('vimos', 'smoke', **changes)
  with pytest.raises(
    ValueError, match='in the sources babel_qa, found none for val and test: no'
  ):
    corpus.build(config, str(tmp_path))
  assert not list(tmp_path.rglob('*.array_record*'))
