import csv
import datetime
import json
import os
import signal
import threading
import time
import types
import xml.etree.ElementTree as ET

import films
import numpy as np
import pytest

from vimonet_jax import locks
from vimonet_jax.apps import given, monitor
from vimonet_jax.audit import privacy
from vimonet_jax.care import calibration, detectors, evidence, timeline
from vimonet_jax.data import windows
from vimonet_jax.infer import engine, model_folder
from vimonet_jax.synthetic import recordings

SETTINGS = {
  'window_s': 6.0, 'hop_s': 2.0, 'follow_s': 0.0, 'begun_at': '', 'hours': 0.3,
  'per_hour': 60.0, 'false_per_hour': 0.5, 'seed': 0,
}  # fmt: skip
# What a fall is to these needs no model: a drop to the floor of 1.3 m/s.
_DROP = detectors.Detector(('drop to the floor',), (1.3,), (0.1,), (1.0,), 0.0)
_NEVER = detectors.Detector(('speed',), (0.0,), (1.0,), (0.0,), -9.0)


@pytest.fixture(scope='module')
def fallen():
  """Two minutes with a fall in them, and the events."""
  for seed in range(9):
    stream = recordings.pieces(seed, 'val', per_hour={'fall': 60.0})
    joints, events = recordings.take(stream, 120)
    falls = [event for event in events if event.kind == 'fall']
    if falls and falls[-1].end_s < 110:
      return joints, falls
  raise AssertionError('Nobody falls.')


@pytest.fixture
def watch(tiny_model, tmp_path, monkeypatch, capsys):
  """Runs the task; gives its folder, exit code and what it printed."""
  kinds = dict.fromkeys(calibration.SIGNS, _NEVER) | {'fall': _DROP}
  monkeypatch.setattr(calibration, 'ready', lambda *args: kinds)
  folder = tmp_path / 'timeline'

  def run(recording, *, settings=SETTINGS, **said):
    code = monitor.run(
      tiny_model.workdir, recording, str(folder), settings=settings, **said
    )
    return folder, code, capsys.readouterr().out

  return run


@pytest.fixture
def unasked(monkeypatch):
  """The model says nothing, which falls that are measured do not need."""
  monkeypatch.setattr(
    evidence.Teller,
    '_ask',
    lambda self, shown: [[-9.0] * len(evidence.VERBS)] * len(shown),
  )


def _rows(path):
  with open(path, newline='', encoding='utf-8') as f:
    assert timeline.NOTICE in next(f)
    return list(csv.DictReader(f))


def _around_a_fall(fallen):
  joints, falls = fallen
  start, end = round(20 * falls[0].start_s), round(20 * falls[0].end_s)
  return joints[max(start - 200, 0) : end + 200]


def _write_lines(file, joints):
  for frame in joints:
    file.write(json.dumps(np.round(frame, 6).tolist()).encode() + b'\n')


def test_a_fall_in_a_file_is_on_the_timeline(watch, fallen, tmp_path):
  joints, falls = fallen
  np.save(tmp_path / 'day.npy', joints)
  folder, code, out = watch(str(tmp_path / 'day.npy'), fps=20.0)
  assert code == 0
  rows = _rows(folder / 'timeline.csv')
  assert [row['kind'] for row in rows] == ['fall'] * len(falls)
  for row, fall in zip(rows, falls, strict=True):
    assert float(row['start_s']) < fall.end_s
    assert float(row['end_s']) > fall.start_s
    assert 0 < float(row['alarm_s']) - fall.start_s < 8
    assert row['source'] == 'model and geometry'
  assert out.count('fall, ') == len(falls)
  assert timeline.NOTICE in out
  fields = json.loads((folder / 'timeline.json').read_text())
  assert fields['notice'] == timeline.NOTICE
  assert [event['kind'] for event in fields['events']] == ['fall'] * len(falls)
  assert fields['duration_s'] == pytest.approx(119.95)
  drawn = (folder / 'timeline.svg').read_text()
  ET.fromstring(drawn)
  for words in timeline.NOTICE.split(': ')[0], 'wandering', 'lying still':
    assert words in drawn
  shown = _rows(folder / 'windows.csv')
  assert len(shown) == 58
  assert 'answer' not in shown[0]


@pytest.mark.usefixtures('unasked')
def test_what_arrives_gives_the_events_of_the_file(
  watch, fallen, tmp_path, monkeypatch
):
  joints = _around_a_fall(fallen)
  np.save(tmp_path / 'day.npy', np.round(joints, 6))
  folder, *_ = watch(
    str(tmp_path / 'day.npy'),
    fps=20.0,
    up='y',
    settings=SETTINGS | {'begun_at': '2026-11-30T23:59:59+01:00'},
  )
  (wanted,) = _rows(folder / 'timeline.csv')
  assert wanted['clock'].startswith('2026-12-01T00:00:')
  assert wanted['clock'].endswith('+01:00')

  path = tmp_path / 'grows.jsonl'
  path.touch()
  read = windows.Growing.read

  def grow():
    with open(path, 'ab') as file:
      for some in np.array_split(joints, 7):
        _write_lines(file, some)
        file.flush()
        time.sleep(0.05)

  growing = threading.Thread(target=grow)
  before = datetime.datetime.now().astimezone()

  def begin(self, size):
    if not begun:  # A file that has begun before does not say when.
      begun.append(threading.Timer(0.5, growing.start))
      begun[0].start()
    return read(self, size)

  begun = []
  with monkeypatch.context() as patched:
    patched.setattr(windows.Growing, 'read', begin)
    folder, code, out = watch(str(path), settings=SETTINGS | {'follow_s': 5.0})
  growing.join()
  assert code == 0
  assert 'The earlier watch' in out
  (row,) = _rows(folder / 'timeline.csv')
  assert row | {'clock': ''} == wanted | {'clock': ''}
  at = datetime.datetime.fromisoformat(row['clock'])
  since_s = (at - before).total_seconds() - float(row['start_s'])
  assert -1 <= since_s < 600
  fields = json.loads((folder / 'timeline.json').read_text())
  assert fields['begun_at']
  (alarm,) = _rows(folder / 'alarms.csv')
  assert alarm['clock'][11:19] in out

  end, begin = os.pipe()
  with open(end, 'rb') as pipe:
    monkeypatch.setattr('sys.stdin', pipe)

    def feed():
      with open(begin, 'wb') as file:
        _write_lines(file, joints)

    feeding = threading.Thread(target=feed)
    feeding.start()
    folder, code, _ = watch('-')
    feeding.join()
  assert code == 0
  (row,) = _rows(folder / 'timeline.csv')
  assert row | {'clock': ''} == wanted | {'clock': ''}
  # Of each of the three watches all is there.
  assert len(list(folder.glob('**/timeline.csv'))) == 3


@pytest.mark.usefixtures('unasked')
def test_a_pipe_has_begun_when_it_did_and_not_when_the_model_is_there(
  watch, fallen, tmp_path, monkeypatch
):
  path = tmp_path / 'named.jsonl'
  os.mkfifo(path)
  load, came = engine.Engine.load, []

  def late(*args, **said):
    came.append(datetime.datetime.now().astimezone())
    time.sleep(2)
    return load(*args, **said)

  monkeypatch.setattr(engine.Engine, 'load', late)
  groups, sizes = windows.groups, []

  def counted(shown, size):
    sizes.append(size)
    return groups(shown, size)

  monkeypatch.setattr(windows, 'groups', counted)

  def feed():
    with open(path, 'wb') as file:
      _write_lines(file, fallen[0][:300])

  for number in range(2):
    feeding = threading.Thread(target=feed)
    feeding.start()
    folder, code, out = watch(str(path))
    feeding.join()
    assert code == 0
    fields = json.loads((folder / 'timeline.json').read_text())
    begun_at = datetime.datetime.fromisoformat(fields['begun_at'])
    assert -2 < (begun_at - came[-1]).total_seconds() < 1
    # What came through a pipe does not come again.
    assert fields['is_live']
    assert sizes[-1] == 1
    assert ('The earlier watch' in out) == bool(number)


@pytest.mark.usefixtures('unasked')
@pytest.mark.parametrize('late_s', [0, 7200])
def test_frames_that_were_left_out_are_told_where_the_beginning_is_given(
  watch, fallen, tmp_path, late_s
):
  path = tmp_path / 'named.jsonl'
  os.mkfifo(path)

  def feed():
    with open(path, 'wb') as file:
      _write_lines(file, fallen[0][:300])

  feeding = threading.Thread(target=feed)
  feeding.start()
  begun = datetime.datetime.now().astimezone()
  begun -= datetime.timedelta(seconds=late_s)
  folder, code, out = watch(
    str(path), settings=SETTINGS | {'begun_at': begun.isoformat()}
  )
  feeding.join()
  assert code == 0
  fields = json.loads((folder / 'timeline.json').read_text())
  assert fields['begun_at'] == begun.isoformat(timespec='seconds')
  assert ('later than those before them' in out) == bool(late_s)
  assert late_s - 60 < fields['late_s'] < late_s + 60


@pytest.mark.usefixtures('unasked')
def test_a_finished_recording_of_yesterday_is_not_late(watch, fallen, tmp_path):
  path = tmp_path / 'x.jsonl'
  with open(path, 'wb') as file:
    _write_lines(file, fallen[0][:250])
  begun_at = '2026-01-01T22:00:00+01:00'
  _, code, out = watch(str(path), settings=SETTINGS | {'begun_at': begun_at})
  assert code == 0
  assert 'later than' not in out


@pytest.mark.usefixtures('unasked')
def test_an_event_is_written_when_nobody_is_seen_any_more(
  watch, fallen, tmp_path, monkeypatch
):
  joints, falls = fallen
  path = tmp_path / 'x.jsonl'
  with open(path, 'wb') as file:
    _write_lines(file, joints[: round(20 * falls[0].end_s) + 80])
    file.write(b'null\n' * 200)
    _write_lines(file, joints[:300])
  order = []
  for name in 'add_event', 'add_unseen':
    method = getattr(timeline.Writer, name)

    def noted(self, one, name=name, method=method):
      order.append(name)
      return method(self, one)

    monkeypatch.setattr(timeline.Writer, name, noted)
  folder, code, _ = watch(str(path))
  assert code == 0
  assert len(_rows(folder / 'timeline.csv')) == 1
  assert order[0] == 'add_event'
  assert order.count('add_unseen') > 1


@pytest.mark.usefixtures('unasked')
@pytest.mark.parametrize('is_pipe', [False, True])
def test_a_video_that_is_late_does_not_hold_up_who_writes_joints(
  watch, fallen, tmp_path, monkeypatch, is_pipe
):
  joints = fallen[0][:500]
  content = films.write(tmp_path / 'day.ts', 1, frames=30 * 12).read_bytes()
  late = tmp_path / 'late.ts'
  if is_pipe:
    os.mkfifo(late)
  else:
    late.write_bytes(content[:4000])
    content = content[4000:]
  end, begin = os.pipe()
  fed, done, was_fed = threading.Event(), threading.Event(), []

  def feed():
    with open(begin, 'wb') as file:
      _write_lines(file, joints)
      file.flush()
      fed.set()
      done.wait(60)  # Joints do not end.

  def film():
    # Frames go on when all joints are there.
    was_fed.append(fed.wait(30))
    with open(late, 'ab') as file:
      file.write(content)

  feeding = threading.Thread(target=feed, daemon=True)
  filming = threading.Thread(target=film, daemon=True)
  with open(end, 'rb') as pipe:
    monkeypatch.setattr('sys.stdin', pipe)
    feeding.start()
    filming.start()
    folder, code, out = watch(
      '-', video=str(late), settings=SETTINGS | {'follow_s': 4.0}
    )
  done.set()
  feeding.join()
  filming.join()
  assert code == 0
  assert was_fed == [True]
  assert len(_rows(folder / 'windows.csv')) >= 4
  assert 'The video has ended at' in out
  # When the video began nobody knows, and of the joints it is known.
  assert json.loads((folder / 'timeline.json').read_text())['begun_at']


@pytest.mark.usefixtures('unasked')
def test_who_may_not_write_takes_nothing_from_anothers_pipe(
  watch, fallen, tmp_path
):
  path = tmp_path / 'named.jsonl'
  os.mkfifo(path)
  with open(os.open(path, os.O_RDWR), 'r+b', buffering=0) as pipe:
    pipe.write(b'null\n')
    with (
      locks.held(str(tmp_path / 'timeline' / 'watch.lock'), 'watch'),
      pytest.raises(locks.HeldError, match='nobody else to write to'),
    ):
      watch(str(path))
    os.set_blocking(pipe.fileno(), False)  # Or a failure would wait for ever.
    assert pipe.read(9) == b'null\n'


@pytest.fixture
def heard():
  """Ctrl-C is heard, also where whoever started us has turned it off."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('unasked', 'heard')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_leaves_whole_files(
  watch, fallen, tmp_path, monkeypatch, number
):
  joints, falls = fallen
  np.save(tmp_path / 'day.npy', joints)
  opened = given.opened

  def stopped(*args):
    found = opened(*args)

    def shown():
      for window in found.shown:
        if window.start_s > falls[0].end_s - 2:
          os.kill(os.getpid(), number)
          time.sleep(60)
          pytest.fail('Nobody has heard the signal.')
        yield window

    return found._replace(shown=shown())

  monkeypatch.setattr(given, 'opened', stopped)
  monkeypatch.setattr(calibration, 'GROUP', 1)
  folder, code, out = watch(str(tmp_path / 'day.npy'), fps=20.0)
  assert code == 128 + number
  assert 'Stopped after' in out
  # The fall that went on is told, too.
  assert len(_rows(folder / 'timeline.csv')) == 1
  assert json.loads((folder / 'timeline.json').read_text())['events']
  ET.parse(folder / 'timeline.svg')


@pytest.mark.usefixtures('unasked')
def test_the_same_finished_recording_is_written_again(watch, fallen, tmp_path):
  np.save(tmp_path / 'day.npy', fallen[0][:250])
  for _ in range(2):
    folder, code, out = watch(str(tmp_path / 'day.npy'), fps=20.0)
    assert code == 0
    assert 'earlier watch' not in out
  assert len(_rows(folder / 'windows.csv')) == 5
  with (
    locks.held(str(folder / 'watch.lock'), 'write'),
    pytest.raises(ValueError, match='Expected nobody else to write to'),
  ):
    watch(str(tmp_path / 'day.npy'), fps=20.0)


def test_each_window_is_asked_what_one_wants_to_know(watch, fallen, tmp_path):
  np.save(tmp_path / 'day.npy', fallen[0][:250])
  folder, *_ = watch(
    str(tmp_path / 'day.npy'), fps=20.0, question='Where does he go?'
  )
  shown = _rows(folder / 'windows.csv')
  assert len(shown) == 5
  fields = json.loads((folder / 'timeline.json').read_text())
  assert fields['question'] == 'Where does he go?'
  answers = [row['answer'] for row in shown]
  assert [row['answer'] for row in fields['answers']] == answers
  assert any(answers)


def test_a_video_alone_or_beside_the_motion(
  watch, fallen, tmp_path, monkeypatch
):
  np.save(tmp_path / 'day.npy', fallen[0][:250])
  film = str(films.write(tmp_path / 'day.mp4', 1, frames=30 * 12))
  folder, code, _ = watch(str(tmp_path / 'day.npy'), video=film, fps=20.0)
  assert code == 0
  assert len(_rows(folder / 'windows.csv')) == 4
  # From a video nobody measures; a detector that needs it sees nothing.
  folder, code, _ = watch(None, video=film)
  assert code == 0
  shown = _rows(folder / 'windows.csv')
  assert [float(row['start_s']) for row in shown][:3] == [0, 2, 4]
  assert all(float(row['fall']) == 0 for row in shown)


@pytest.mark.parametrize(
  ('said', 'sentence'),
  [
    ({'recording': None}, 'found neither; name the recording'),
    ({'question': ' '}, 'found an empty --question'),
    ({'recording': 'x.jsonl', 'fps': 30.0}, 'found --fps=30; resample'),
    ({'recording': 'x.jsonl', 'fps': -20.0}, 'found --fps=-20; resample'),
    ({'settings': SETTINGS | {'follow_s': -1.0}}, 'follow_s of 0 or more'),
    ({'settings': SETTINGS | {'begun_at': '2026-11-30T22:00:00'}},
     "with its offset, such as .* found '2026-11-30T22:00:00'; correct"),
    ({'recording': 'x.bvh', 'settings': SETTINGS | {'follow_s': 1.0}},
     'found x.bvh and follow_s=1'),
    ({'recording': None, 'video': '.'}, 'found the folder .; make a video'),
    ({'settings': SETTINGS | {'hop_s': 7.0}}, 'found 6 and 7; correct'),
    ({'settings': SETTINGS | {'hop_s': 1.03}}, 'found 6 and 1.03; correct'),
    ({'settings': SETTINGS | {'hours': 0.0}}, 'hours and per_hour above 0'),
  ],
)  # fmt: skip
def test_what_cannot_be_watched_is_said(watch, said, sentence):
  with pytest.raises(ValueError, match=sentence):
    watch(**({'recording': 'x.npy'} | said))


def test_a_model_that_sees_no_videos_says_so_before_one_is_opened(
  watch, monkeypatch
):
  monkeypatch.setattr(model_folder, 'media_of', lambda paths: ('motion',))
  with pytest.raises(ValueError, match=r'trained on \(motion\), found video'):
    watch('x.npy', video='x.mp4')


@pytest.mark.usefixtures('unasked')
def test_a_broken_line_is_named_and_what_was_seen_is_kept(
  watch, fallen, tmp_path
):
  path = tmp_path / 'x.jsonl'
  with open(path, 'wb') as file:
    _write_lines(file, fallen[0][:250])
    file.write(b'oh\n')
  with pytest.raises(ValueError, match='x.jsonl, line 251: expected a frame'):
    watch(str(path), settings=SETTINGS | {'follow_s': 0.01})
  fields = json.loads((tmp_path / 'timeline' / 'timeline.json').read_text())
  assert fields['duration_s'] == 12.0


@pytest.mark.parametrize(
  ('turn', 'sentence'),
  [
    (lambda joints: 100 * joints, r'x.jsonl: expected legs of .* pass --unit'),
    (lambda joints: joints * [1, -1, -1], 'found one that stands upside down'),
    (lambda joints: joints * [-1, 1, 1], 'expected feet that point forward'),
  ],
)
def test_joints_that_arrive_otherwise_are_not_watched_in_vain(
  watch, fallen, tmp_path, turn, sentence
):
  with open(tmp_path / 'x.jsonl', 'wb') as file:
    _write_lines(file, turn(fallen[0][:150]))
  with pytest.raises(ValueError, match=sentence):
    watch(str(tmp_path / 'x.jsonl'))


@pytest.mark.usefixtures('unasked')
def test_bad_frames_in_the_middle_do_not_end_a_watch(watch, fallen, tmp_path):
  joints, falls = fallen
  path = tmp_path / 'x.jsonl'
  with open(path, 'wb') as file:
    for part in joints[:300], joints[:700]:
      _write_lines(file, part)
      file.write(b'null\n' * 20)
      file.write(json.dumps([[0, 0, 0]] * 22).encode() + b'\n')
    _write_lines(file, joints)
  folder, code, out = watch(str(path))
  assert code == 0
  assert out.count('nobody is seen') == 2
  fields = json.loads((folder / 'timeline.json').read_text())
  # Frames 300 to 320 and 1021 to 1041; windows are two seconds apart.
  assert fields['unseen'] == [[14.0, 18.0], [50.0, 54.0]]
  assert fields['duration_s'] == pytest.approx((1042 + len(joints) - 1) / 20)
  late_s = 1042 / 20
  found = [x for x in fields['events'] if x['start_s'] > 54]
  assert len(found) == len(falls)
  for row, fall in zip(found, falls, strict=True):
    assert 0 < row['alarm_s'] - late_s - fall.start_s < 8


@pytest.mark.usefixtures('unasked')
def test_a_tracker_that_loses_frames_now_and_then_is_watched(
  watch, fallen, tmp_path
):
  joints, falls = fallen
  path = tmp_path / 'x.jsonl'
  with open(path, 'wb') as file:
    for start in range(0, len(joints), 40):
      _write_lines(file, joints[start : start + 38])
      file.write(b'null\n' * 2)
    _write_lines(file, joints[-1:])
  folder, code, out = watch(str(path))
  assert code == 0
  assert 'nobody is seen' not in out
  fields = json.loads((folder / 'timeline.json').read_text())
  assert fields['filled_frames'] == len(joints) // 20
  assert len(fields['events']) == len(falls)


def test_detectors_are_fitted_once_and_kept_beside_the_model(
  tiny_model, tmp_path, monkeypatch
):
  made = []

  def told(self, shown):
    return (
      np.random.default_rng(0)
      .normal(size=(len(shown), len(evidence.VERBS)))
      .tolist()
    )

  fit = calibration.fit

  def counted(*args):
    made.append(args)
    return fit(*args)

  monkeypatch.setattr(evidence.Teller, '_ask', told)
  monkeypatch.setattr(calibration, 'fit', counted)
  (tmp_path / 'model').symlink_to(f'{tiny_model.workdir}/model')
  fields = {k: SETTINGS[k] for k in SETTINGS if k not in monitor._OF_INPUTS}
  settings = calibration.Settings(**fields)

  def ready(settings=settings):
    return calibration.ready(str(tmp_path), asking, ('motion',), settings)

  asking = types.SimpleNamespace(bundle=tiny_model.bundle)
  first = ready()
  assert set(first) == set(recordings.KINDS)
  assert all(0 < x.threshold < 1 for x in first.values())
  assert ready() == first
  assert len(made) == 1
  (tmp_path / 'monitor' / 'motion.json').write_text('{"made_of"')
  assert ready() == first
  assert len(made) == 2
  ready(calibration.Settings(**fields | {'seed': 1}))
  assert len(made) == 3


def test_with_motion_alone_no_video_is_opened(watch, monkeypatch):
  monkeypatch.setattr(given.video_file, 'opened', None)
  with pytest.raises(privacy.RefusedError, match='found video'):
    watch(None, video='day.mp4', motion_only=True)
