import json
import os
import shutil
import subprocess

import pytest

from vimonet_jax.audit import provenance, signature, verify

needs_ssh = pytest.mark.skipif(
  shutil.which('ssh-keygen') is None, reason='needs the OpenSSH client'
)


@pytest.fixture
def key(tmp_path):
  return _made_key(tmp_path / 'publisher', 'lab@example.org')


def _made_key(path, comment, passphrase=''):
  if shutil.which('ssh-keygen') is None:
    pytest.skip('needs the OpenSSH client')
  subprocess.run(
    ['ssh-keygen', '-q', '-t', 'ed25519', '-N', passphrase, '-C', comment,
     '-f', path],
    check=True,
  )  # fmt: skip
  return str(path)


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'answers.jsonl'
  path.write_text('{"id": "1"}\n')
  return str(path)


@pytest.fixture
def folder(tmp_path):
  path = tmp_path / 'model'
  (path / 'weights').mkdir(parents=True)
  (path / 'config.json').write_text('{}')
  (path / 'weights' / 'a').write_bytes(b'abc')
  (path / 'weights' / '.b').write_bytes(b'hidden')
  return str(path)


def _write(output, **changes):
  covers = ('**/*',) if os.path.isdir(output) else ()
  return provenance.write(output, {'what': 'it'}, covers=covers, **changes)


def _edit(path, change):
  """Changes what a manifest says, and leaves its signature."""
  with open(path) as f:
    fields = json.load(f)
  change(fields)
  with open(path, 'w') as f:
    json.dump(fields, f)


def test_a_file_that_nobody_touched_is_intact(file, key):
  place = _write(file, key_file=key)
  assert place == f'{file}.manifest.json'
  for given in (file, place):
    verdict = provenance.verify(given, f'{key}.pub')
    assert verdict.is_intact
    assert f'{file} is as it was on' in verdict.sentence
    assert 'signed by lab@example.org (SHA256:' in verdict.sentence
  # Whoever has no key of somebody they trust is told whose it is.
  assert 'signed by SHA256:' in provenance.verify(file).sentence


@pytest.mark.parametrize('name', ['answers.jsonl', 'model/weights/a'])
def test_a_changed_byte_is_found(tmp_path, file, folder, key, name):
  output = file if name == 'answers.jsonl' else folder
  _write(output, key_file=key)
  with open(tmp_path / name, 'r+b') as f:
    f.write(b'X')  # As many bytes as before.
  verdict = provenance.verify(output, f'{key}.pub')
  assert not verdict.is_intact
  assert f'{name.removeprefix("model/")} changed' in verdict.sentence


def test_added_and_missing_files_of_a_folder_are_found(folder, key):
  _write(folder, key_file=key)
  os.remove(f'{folder}/weights/.b')
  open(f'{folder}/weights/c', 'w').close()
  sentence = provenance.verify(folder).sentence
  assert 'weights/.b missing; weights/c added' in sentence
  shutil.rmtree(f'{folder}/weights')
  assert 'weights/.b, weights/a missing' in provenance.verify(folder).sentence


def test_files_that_are_not_covered_are_somebody_elses(folder):
  provenance.write(folder, {}, covers=('weights/**/*',))
  open(f'{folder}/notes.txt', 'w').close()
  assert provenance.verify(folder).is_intact


def test_a_missing_file_is_found(file):
  _write(file)
  os.remove(file)
  assert 'answers.jsonl missing' in provenance.verify(file).sentence


def test_a_changed_manifest_is_found(file, key):
  place = _write(file, key_file=key)
  _edit(place, lambda x: x['manifest'].update(what='something else'))
  verdict = provenance.verify(file)
  assert not verdict.is_intact
  assert 'the manifest changed after it was signed' in verdict.sentence


def test_who_changes_a_file_and_its_manifest_cannot_sign_it(
  file, key, tmp_path
):
  place = _write(file, key_file=key)
  with open(file, 'w') as f:
    f.write('{"id": "2"}\n')
  # With a key of their own.
  other = _made_key(tmp_path / 'other', 'lab@example.org')
  _write(file, key_file=other)
  assert provenance.verify(file).is_intact
  verdict = provenance.verify(file, f'{key}.pub')
  assert not verdict.is_intact
  assert 'not by lab@example.org' in verdict.sentence
  # With none.
  _write(file)
  verdict = provenance.verify(file, f'{key}.pub')
  assert not verdict.is_intact
  assert 'nobody has signed it' in verdict.sentence
  # With the signature of another output.
  with open(place) as f:
    theirs = json.load(f)['signature']
  assert theirs is None
  (tmp_path / 'b').write_text('b')
  with open(_write(str(tmp_path / 'b'), key_file=key)) as f:
    theirs = json.load(f)['signature']
  _edit(place, lambda x: x.update(signature=theirs))
  assert not provenance.verify(file, f'{key}.pub').is_intact


def test_without_a_key_it_says_that_nobody_has_signed(file):
  place = _write(file)
  with open(place) as f:
    assert json.load(f)['unsigned'].startswith('nobody has signed this')
  verdict = provenance.verify(file)
  assert verdict.is_intact
  assert 'that nobody has signed' in verdict.sentence


@needs_ssh
@pytest.mark.parametrize(
  ('text', 'sentence'),
  [
    (None, 'found no such file; make one: ssh-keygen -t ed25519'),
    ('no key\n', 'ssh-keygen cannot use it'),
  ],
)
def test_a_key_that_cannot_sign_is_one_sentence(file, tmp_path, text, sentence):
  path = tmp_path / 'key'
  if text:
    path.write_text(text)
  with pytest.raises(signature.UnusableError, match=sentence):
    _write(file, key_file=str(path))
  assert not os.path.exists(provenance.path(file))


def test_nobody_is_asked_for_a_passphrase(file, tmp_path):
  key = _made_key(tmp_path / 'locked', 'me', passphrase='secret')
  with pytest.raises(signature.UnusableError, match='ssh-add it'):
    _write(file, key_file=key)


def test_openssh_alone_can_check_a_signature(file, key, tmp_path):
  """As the module's docstring says."""
  with open(_write(file, key_file=key), encoding='utf-8') as f:
    fields = json.load(f)
  (tmp_path / 'said.sig').write_text(fields['signature'])
  said = json.dumps(
    fields['manifest'],
    sort_keys=True,
    separators=(',', ':'),
    ensure_ascii=False,
  )
  done = subprocess.run(
    ['ssh-keygen', '-Y', 'check-novalidate', '-n', 'vimonet_jax', '-s',
     tmp_path / 'said.sig'],
    input=said.encode(),
    check=True,
    capture_output=True,
  )  # fmt: skip
  assert b'Good' in done.stdout


def test_what_it_was_made_of_is_a_chain(tmp_path, file, folder):
  questions = tmp_path / 'questions.jsonl'
  questions.write_text('a')
  provenance.write(str(questions), {'what': 'questions'})
  provenance.write(
    folder,
    {'what': 'a model', 'weights': 'b7'},
    covers=('**/*',),
    made_from={str(questions): {}},
  )
  provenance.write(file, {'what': 'answers'}, made_from={folder: {}})
  found = provenance.read(file)
  (model,) = found['made_from']
  assert model['path'] == 'model'
  assert model['manifest'] == provenance.digest(provenance.read(folder))
  told = found['chain'][model['manifest']]
  assert (told['what'], told['weights']) == ('a model', 'b7')
  (source,) = told['made_from']
  assert source['path'] == '../questions.jsonl'
  assert found['chain'][source['manifest']]['what'] == 'questions'
  (line,) = provenance.verify(file).inputs
  assert 'has the same manifest' in line
  provenance.write(folder, {'what': 'a model'}, covers=('**/*',))
  assert 'another by now' in provenance.verify(file).inputs[0]
  os.remove(provenance.path(folder))
  assert 'has lost its manifest' in provenance.verify(file).inputs[0]
  shutil.rmtree(folder)
  verdict = provenance.verify(file)
  assert verdict.is_intact
  assert 'is not here' in verdict.inputs[0]


def test_an_input_without_a_manifest_has_a_digest(tmp_path, file):
  source = tmp_path / 'source'
  source.write_text('abc')
  known = {str(source): {}, str(tmp_path): {'weights': 'b7'}}
  provenance.write(file, {}, made_from=known)
  first, second = provenance.read(file)['made_from']
  assert first['bytes'] == 3
  assert second == {'path': '.', 'manifest': None, 'weights': 'b7'}
  assert 'is the same' in provenance.verify(file).inputs[0]
  source.write_text('abd')
  assert 'is another' in provenance.verify(file).inputs[0]


def test_who_adds_to_a_folder_does_not_vouch_for_the_rest(folder):
  _write(folder)
  with open(f'{folder}/weights/a', 'r+b') as f:
    f.write(b'X')
  before = provenance.state(folder, ('**/*',))
  open(f'{folder}/weights/c', 'w').close()
  _write(folder, before=before)
  assert 'found weights/a changed;' in provenance.verify(folder).sentence


def test_it_says_what_software_made_it(file):
  _write(file)
  software = provenance.read(file)['software']
  assert {'python', 'jax', 'jaxlib', 'numpy'} <= set(software)
  assert 'pytest' not in software  # An extra.


def test_verify_prints_a_sentence_for_each(tmp_path, file, folder, capsys):
  _write(file)
  _write(folder)
  assert verify.run(str(tmp_path)) == 0
  assert capsys.readouterr().out.count(' is as it was on ') == 2
  os.remove(f'{folder}/weights/a')
  assert verify.run(str(tmp_path)) == 1
  out, err = capsys.readouterr()
  assert out.startswith(f'{file} is as it was')
  assert 'weights/a missing' in err
  # A damaged one does not hide the others.
  _write(folder)
  with open(provenance.path(file), 'w') as f:
    f.write('{')
  assert verify.run(str(tmp_path)) == 1
  out, err = capsys.readouterr()
  assert out.startswith(f'{folder} is as it was')
  assert 'expected a manifest' in err


@pytest.mark.parametrize('text', ['', '{}', '[1]', '{"manifest": {}}'])
def test_a_damaged_manifest_is_one_sentence(file, text):
  with open(provenance.path(file), 'w') as f:
    f.write(text)
  with pytest.raises(ValueError, match='expected a manifest .*, found'):
    provenance.verify(file)


def test_a_manifest_cannot_point_out_of_its_folder(folder):
  place = _write(folder)
  for pattern in ('/etc/*', '../*', 'weights/../../*'):
    _edit(place, lambda x, y=pattern: x['manifest'].update(covers=[y]))
    with pytest.raises(ValueError, match='outside of its folder'):
      provenance.verify(folder)


def test_nothing_to_compare_with_is_one_sentence(file):
  with pytest.raises(ValueError, match='manifest.json, which says what'):
    verify.run(file)
  with pytest.raises(ValueError, match='Expected --input'):
    verify.run(None)


@pytest.mark.parametrize(
  'said',
  [
    {'covers': ['none']},  # Then the file would not be looked at.
    {'files': {}},
    {'date': '2026-11-30 12:00:00 UTC, signed by lab@example.org (SHA256:x)'},
    {'made_from': [{}]},
    {'made_from': 'abc'},
    {'made_from': [{'path': 5, 'sha256': ''}]},
    {'made_from': [{'path': 'a'}]},
    {'what': '\ud800'},
    {'chain': []},
    {'goes_on_from': 'b7'},
  ],
)
def test_a_stranger_s_manifest_has_the_form_of_one(file, said):
  _edit(_write(file), lambda x: x['manifest'].update(said))
  with pytest.raises(ValueError, match='expected a manifest .*, found'):
    provenance.verify(file)


def test_a_stranger_s_folder_says_what_it_covers_and_is_signed_with_text(
  folder,
):
  place = _write(folder)
  _edit(place, lambda x: x.update(signature=5))
  with pytest.raises(ValueError, match='signature 5'):
    provenance.verify(folder)
  _write(folder)
  _edit(place, lambda x: x['manifest'].pop('covers'))
  with pytest.raises(ValueError, match="'covers'"):
    provenance.verify(folder)


@pytest.mark.parametrize('leads_to', ['.', '..', '/'])
def test_a_link_to_a_folder_is_not_followed(folder, leads_to):
  """Two that lead round have more paths than anybody can list."""
  _write(folder)
  for name in ('b', 'c'):
    os.symlink(leads_to, f'{folder}/weights/{name}')
  with pytest.raises(ValueError, match='weights/[bc], a link to a folder'):
    provenance.verify(folder)
  with pytest.raises(ValueError, match='weights/[bc], a link to a folder'):
    _write(folder)


def test_an_output_may_itself_be_a_link(folder, tmp_path):
  os.symlink('model', tmp_path / 'linked')
  _write(str(tmp_path / 'linked'))
  assert provenance.verify(folder).is_intact


def test_half_a_manifest_of_a_killed_process_is_no_change(folder):
  _write(folder)
  with open(f'{folder}/manifest.json.123.part', 'w') as f:
    f.write('{')
  assert provenance.verify(folder).is_intact
  _write(folder)
  assert 'manifest.json.123.part' not in provenance.read(folder)['files']


def test_what_is_called_as_a_manifest_elsewhere_in_a_folder_is_a_file(folder):
  _write(folder)
  for name in ('weights/manifest.json', 'weights/a.manifest.json'):
    open(f'{folder}/{name}', 'w').close()
    assert f'{name} added' in provenance.verify(folder).sentence
    os.remove(f'{folder}/{name}')


def test_no_name_of_a_stranger_s_file_reaches_a_terminal_as_it_is(
  folder, capsys
):
  _write(folder)
  for name in (b'\x1b[2J', b'a\nmodel is as it was on', b'\xff'):
    open(folder.encode() + b'/' + name, 'w').close()
  assert verify.run(folder) == 1
  out, err = capsys.readouterr()
  assert (out, err.count('\n')) == ('', 1)
  assert '\\x1b[2J, a\\nmodel is as it was on, \\udcff added' in err


def test_it_is_said_what_a_manifest_covers(file, folder):
  _write(file)
  assert provenance.verify(file).sentence.endswith('; it, 1 file.')
  _write(folder)
  assert provenance.verify(folder).sentence.endswith('; it, 3 files.')
  # Signed by whom one trusts, it would say nothing of a model beside it.
  provenance.write(folder, {'what': 'features'}, covers=('config.json',))
  sentence = provenance.verify(folder).sentence
  assert sentence.endswith('; features, 1 file, and nothing of others there.')
