import pathlib

import presets
import pytest

from vimonet_jax import claim, corpus, named_sources
from vimonet_jax.data import attached, joined

FOLDER = {'data__sources__humanml3d__path': '/h'}
VIDEOS = {
  'data__sources__valley__path': '/v',
  'data__sources__valley__files': ('/v.json',),
  'data__sources__valley__licence': 'CC0',
}


def _join(**changes) -> joined.Joined:
  return corpus.dataset(presets.load('vimos', 'smoke', **changes).data)


def test_sources_with_a_path_are_the_parts_and_others_are_not_used():
  made = _join(**FOLDER, **VIDEOS, data__index='/i.csv', data__strict=True)
  folder, videos = made.parts
  assert (folder.source, folder.path) == ('humanml3d', '/h')
  assert folder.min_frames == 20
  assert folder.licence.startswith('HumanML3D, MIT')
  assert (videos.source, videos.files) == ('valley', ('/v.json',))
  assert (videos.image_size, videos.antialias) == (48, True)
  assert videos.domain == 'video_caption'
  assert (made.index, made.strict, made.image_size) == ('/i.csv', True, 48)


def test_the_paper_s_pictures_are_not_averaged():
  (videos,) = corpus.dataset(presets.load('vimos', **VIDEOS).data).parts
  assert (videos.image_size, videos.antialias) == (224, False)


def test_questions_are_added_to_the_clips_of_a_source():
  (part,) = _join(
    **FOLDER,
    data__sources__humanml3d__qa_files=('/a', '/b'),
    data__sources__humanml3d__qa_domain='reasoning',
  ).parts
  assert isinstance(part, attached.Attached)
  assert (part.files, part.domain) == (('/a', '/b'), 'reasoning')
  assert part.source == 'humanml3d'


def test_without_any_source_the_flags_are_told():
  with pytest.raises(ValueError, match='give --config.data.sources.amass.path'):
    _join()


def _source(**fields):
  config = presets.load('vimos', 'smoke', **FOLDER)
  with config.unlocked():
    config.data.sources.mine = fields
  return corpus.dataset(config.data)


def test_a_source_of_the_user_s_own_is_one_more():
  made = _source(kind='folder', path='/mine', licence='CC0')
  assert [part.source for part in made.parts] == ['humanml3d', 'mine']


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'path': '/x'}, r'sources.mine.kind of folder, amass, .* found None'),
    ({'kind': 'movid', 'path': '/x'}, "found 'movid'"),
    (
      {'kind': 'folder', 'path': '/x', 'licence': 'l', 'lisence': 'l'},
      'fields of kind, path, licence, min_frames, qa_files, qa_place, '
      "qa_max_turns, qa_domain for .*mine, of kind folder, found 'lisence'",
    ),
    (
      {'kind': 'videos', 'path': '/x', 'licence': 'l', 'qa_files': ('/q',)},
      "found 'qa_files'",
    ),
    ({'kind': 'folder', 'path': '/x'}, 'sources.mine.licence, found it empty'),
    (
      {'kind': 'babel_qa', 'questions': '/q', 'split_file': '/s',
       'motions': '/m', 'licence': ''},
      'sources.mine.licence, found it empty',
    ),
    (
      {'kind': 'videos', 'path': '/x', 'licence': 'l', 'files': ()},
      r'give --config.data.sources.mine.files=',
    ),
    (
      {'kind': 'folder', 'path': '/x', 'licence': 'l', 'qa_files': '/q',
       'qa_domain': 'feet'},
      "sources.mine: Expected a domain of .* found 'feet'",
    ),
  ],
)  # fmt: skip
def test_fields_that_cannot_be_meant_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    _source(**fields)


def test_paths_have_to_be_there_for_those_who_build(tmp_path):
  changes = {
    'data__sources__humanml3d__path': str(tmp_path),
    'data__sources__humanml3d__qa_files': (str(tmp_path / 'a.json'),),
  }
  config = presets.load('vimos', 'smoke', **changes)
  with pytest.raises(ValueError, match='humanml3d.qa_files, found none at'):
    corpus.build(config, str(tmp_path / 'work'))
  pathlib.Path(tmp_path / 'a.json').touch()
  named_sources.check_paths(config.data)


def test_who_moved_the_folders_goes_on_in_the_same_work_folder(tmp_path):
  claim.write(presets.load('vimos', 'smoke', **FOLDER), str(tmp_path))
  moved = FOLDER | {'data__sources__humanml3d__path': '/elsewhere'}
  moved |= {'data__max_failed': 99, 'data__beam': 'direct'}
  claim.check(presets.load('vimos', 'smoke', **moved), str(tmp_path))
  other = presets.load('vimos', 'smoke', **FOLDER, data__strict=True)
  with pytest.raises(ValueError, match='data.strict=False where this'):
    claim.check(other, str(tmp_path))


@pytest.mark.parametrize('arg', ['', 'motion', 'tiny', 'smoke-motion'])
def test_without_videos_no_stage_asks_for_them(arg):
  config = presets.load('vimos', arg)
  media = {
    medium
    for name in config.stage_names
    for mix in config[name].mixes.values()
    for medium in mix.media
  }
  assert media == {'motion'} | ({'video'} if 'motion' not in arg else set())
  assert config.workdir.endswith(arg)
  with pytest.raises(ValueError, match='found .:video'):
    presets.load('vimos', 'video')
