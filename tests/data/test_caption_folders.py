import pytest

from vimonet_jax.data import caption_folders, clips, qa_files


def _texts(root, **texts):
  for name, text in texts.items():
    path = root / f'{name.replace("__", "/")}.txt'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')
  return root


def test_a_caption_is_a_conversation_about_the_clip_of_that_name(tmp_path):
  root = _texts(
    tmp_path / 'texts',
    dance__jazz_1='A woman dances.\n\nShe turns.\n',
    walk='a man walks.#a/DET#0.0#0.0\nhe stops#x#1.0#2.5',
  )
  found, faults = caption_folders.read(root)
  assert not faults
  assert [(c.media, c.turns[0].answer, c.start_s, c.end_s) for c in found] == [
    ('dance/jazz_1', 'A woman dances.', 0, 0),
    ('dance/jazz_1', 'She turns.', 0, 0),
    ('walk', 'a man walks.', 0, 0),
    ('walk', 'he stops', 1.0, 2.5),
  ]
  assert {c.turns[0].question for c in found} <= set(clips.QUESTIONS[''])
  assert found[0].turns[0].question != found[1].turns[0].question
  assert found[0].provenance == {'file': 'texts', 'place': 'dance/jazz_1.txt'}


def test_texts_without_captions_are_named(tmp_path):
  root = _texts(
    tmp_path, a='he walks', b=' \n', c='#1', d='backwards#x#3.0#2.0'
  )
  (root / 'e.txt').write_bytes(b'\xff\xfe')
  found = qa_files.read(root)
  assert [c.media for c in found.conversations] == ['a']
  expected = {
    'b': 'a caption a line, found none',
    'c': 'expected caption#words',
    'd': 'a start before the end',
    'e': 'text in UTF-8',
  }
  for fault, (name, what) in zip(found.faults, expected.items(), strict=True):
    assert fault.startswith(f'{root}/{name}.txt')
    assert what in fault


def test_a_folder_is_read_like_a_file_and_changes_with_its_texts(tmp_path):
  root = _texts(tmp_path, a='he walks\nhe goes', b='she walks')
  found = qa_files.read(root)
  assert [c.id for c in found.conversations] == ['a/0', 'a/1', 'b']
  assert found.layouts == {'captions': 3}
  before = qa_files.checksum(root)
  (root / 'b.txt').rename(root / 'c.txt')
  assert qa_files.checksum(root) != before


def test_a_folder_of_nothing_is_refused(tmp_path):
  with pytest.raises(ValueError, match='expected texts .* found none'):
    qa_files.read(tmp_path)
  _texts(tmp_path, a='\n')
  with pytest.raises(ValueError, match='expected a caption a line'):
    qa_files.read(tmp_path)
