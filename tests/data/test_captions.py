import pytest

from vimonet_jax.data import captions


@pytest.fixture
def read(tmp_path):
  def read(content: bytes):
    path = tmp_path / 'a.txt'
    path.write_bytes(content)
    return captions.read(path)

  return read


def test_each_line_is_a_caption_of_a_part(read):
  assert read(b'he walks.#x/DET#0.0#0.0\n\n she runs #x#2.0#9.5\n') == [
    captions.Caption('he walks.'),
    captions.Caption('she runs', 2.0, 9.5),
  ]


def test_times_that_are_not_known_are_0(read):
  assert read(b'he walks#x#nan#nan') == [captions.Caption('he walks')]


def test_other_editors_wrote_it(read):
  assert read('\ufeffà droite#x#0#0\r\n'.encode()) == [
    captions.Caption('à droite')
  ]


@pytest.mark.parametrize(
  'line',
  [
    'a man walks',
    'a man walks#x#soon#0',
    'a man walks#x#-1.0#4.0',
    'a man walks#x#0.0#-4.0',
    'a man walks#x#0.0#inf',
  ],
)
def test_a_line_that_is_no_caption_is_named(read, line):
  with pytest.raises(ValueError, match=r'a\.txt, line 2: .*at least 0') as e:
    read(f'good#x#0#0\n{line}\n'.encode())
  assert repr(line) in str(e.value)


def test_bytes_that_are_no_text_are_named(read):
  message = r"a\.txt: expected text in UTF-8, found b'\\xe9' at byte 5; save"
  with pytest.raises(ValueError, match=message):
    read('il trébuche#x#0#0'.encode('latin-1'))
