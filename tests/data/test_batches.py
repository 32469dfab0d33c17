import dataclasses
import functools
import itertools
import json
import logging

import numpy as np
import pytest
import samples

from vimonet_jax import checkpoint
from vimonet_jax.data import (
  augment,
  batches,
  records,
  text,
  tokenizer,
  views,
)
from vimonet_jax.motion import features
from vimonet_jax.synthetic import world
from vimonet_jax.train import losses

VIDEO = 6
STATISTICS = features.Statistics(np.full(263, 2.0), np.full(263, 4.0))
CONTRACT = ('tokens', 'loss_mask', 'segment_ids', 'positions', 'media_index')
MEDIA = [(), ('motion',), ('video',), ('motion', 'video'), ('words',)]


@functools.cache
def _layout() -> text.Layout:
  spoken = (samples.record(number, ('words',)) for number in range(50))
  template = text.TEMPLATES['short']
  corpus = (line for record in spoken for line in text.texts(record, template))
  pieces = tokenizer.Tokenizer(tokenizer.train_tokenizer(corpus, 400))
  return text.Layout(pieces, template, VIDEO)


def _mix(size=20, media=(), **fields):
  """Records with these media; `words` has words in place of both clips."""
  slots = {
    'motion': {'motion_clips': 3},
    'video': {'video_clips': 3},
    'words': {'has_words': True},
  }
  for name in media:
    fields = slots[name] | fields
  made = [samples.record(n, media, words=1 + n % 3) for n in range(size)]
  default = {
    'source': made,
    'view': views.View(('motion', 'video') if 'words' in media else media),
    'rows': 2,
    'length': 120,
  }
  return batches.Mix(**(default | fields))


def _batches(*mixes, count=None, **options):
  default = {'layout': _layout(), 'statistics': STATISTICS, 'seed': 0}
  stream = batches.conversations(mixes, **(default | options))
  return stream if count is None else list(itertools.islice(stream, count))


def _same(found, expected):
  assert len(found) == len(expected)
  for a, b in zip(found, expected, strict=True):
    assert set(a) == set(b)
    for key, x in a.items():
      assert x.dtype == b[key].dtype
      np.testing.assert_array_equal(x, b[key], key)


def _unpack(batch):
  rows = samples.unpack(batch, motion_slots=49, video_tokens=VIDEO)
  return [made for row in rows for made in row]


def _number(made) -> int:
  """Which record an element came from, by its words."""
  words = _layout().tokenizer.decode(made['tokens'])
  return int(words.split('number ')[1].split('?')[0])


# --- What a batch holds ------------------------------------------------------


@pytest.mark.parametrize('media', MEDIA)
def test_a_batch_keeps_the_contract(media):
  (batch,) = _batches(_mix(media=media), count=1)
  expected = dict.fromkeys(CONTRACT, ('int32', (2, 120)))
  expected['loss_mask'] = ('bool', (2, 120))
  if 'motion' in media:
    expected['motion'] = ('float32', (2, 3, 196, 263))
    expected['motion_length'] = ('int32', (2, 3))
  if 'video' in media:
    expected['frames'] = ('uint8', (2, 3, 2, 4, 4, 3))
  if 'words' in media:
    expected['more_tokens'] = ('int32', (2, 120, text.MORE_WORDS))
  ids = batch.pop('ids')
  assert ids.shape == (2,)
  assert ids.dtype.kind == 'U'
  found = {key: (x.dtype.name, x.shape) for key, x in batch.items()}
  assert found == expected


@pytest.mark.parametrize('media', MEDIA)
def test_a_packed_record_is_what_it_is_alone(media):
  mix = _mix(media=media, length=180)
  elements = [
    made for batch in _batches(mix, count=6) for made in _unpack(batch)
  ]
  assert len(elements) > 6 * mix.rows  # Some rows do have several records.
  for made in elements:
    record = mix.source[_number(made)]
    alone = text.encode_dialog(record, _layout())
    for key in ('tokens', 'loss_mask', 'media_index'):
      np.testing.assert_array_equal(made[key], alone[key])
    assert ('motion' in made) == ('motion' in media)
    assert ('frames' in made) == ('video' in media)
    assert ('more_tokens' in made) == ('words' in media)
    if 'words' in media:
      np.testing.assert_array_equal(made['more_tokens'], alone['more_tokens'])
      assert (made['more_tokens'] > 0).any()
    if 'motion' in media:
      (length,) = made['motion_length']
      motion_T263 = STATISTICS.normalise(record.motion)
      np.testing.assert_array_equal(made['motion'][0, :length], motion_T263)
      assert not made['motion'][0, length:].any()
    if 'video' in media:
      np.testing.assert_array_equal(made['frames'][0], record.frames)


def test_conversations_of_all_kinds_share_a_row():
  kinds = [('motion',), ('video',), ('motion', 'video'), ()]
  made = [
    samples.record(n, kinds[n % 4], words=1 + n % 3) for n in range(24)
  ]
  mix = _mix(
    source=made,
    view=views.Choice(tuple(views.View(kind) for kind in kinds), (1.0,) * 4),
    rows=2,
    length=250,
    motion_clips=3,
    video_clips=3,
    frames_shape=(2, 4, 4, 3),
  )
  rows, elements = [], []
  for batch in _batches(mix, count=12):
    assert batch['motion'].shape == (2, 3, 196, 263)
    assert batch['frames'].shape == (2, 3, 2, 4, 4, 3)
    unpacked = samples.unpack(batch, motion_slots=49, video_tokens=VIDEO)
    rows += [{tuple(sorted(_shown(x))) for x in row} for row in unpacked]
    elements += [x for row in unpacked for x in row]
  assert max(map(len, rows)) > 1
  assert {kind for row in rows for kind in row} == set(kinds)
  for found in elements:
    record = mix.source[_number(found)]
    # As it would be alone, if it showed as much.
    hidden = {
      **({} if 'motion' in found else {'motion': None}),
      **({} if 'frames' in found else {'frames': None}),
    }
    shown = dataclasses.replace(record, **hidden)
    alone = text.encode_dialog(shown, _layout())
    np.testing.assert_array_equal(found['tokens'], alone['tokens'])
    np.testing.assert_array_equal(found['media_index'], alone['media_index'])
    if 'motion' in found:
      motion_T263 = STATISTICS.normalise(record.motion)
      (length,) = found['motion_length']
      np.testing.assert_array_equal(found['motion'][0, :length], motion_T263)
    if 'frames' in found:
      np.testing.assert_array_equal(found['frames'][0], record.frames)


def _shown(made):
  return [
    name
    for name, key in (('motion', 'motion'), ('video', 'frames'))
    if key in made
  ]


def test_rows_that_are_filled_at_the_same_time_are_fuller():
  shares, conversations = [], []
  for bins in (0, 16):
    batches_ = _batches(_mix(rows=1, length=150, bins=bins), count=64)
    shares.append(np.mean([x['segment_ids'] > 0 for x in batches_]))
    made = [made for batch in batches_ for made in _unpack(batch)]
    conversations.append([_number(x) for x in made])
  assert shares[1] > shares[0] + 0.02
  # Other rows, but of the same conversations.
  first, second = (np.bincount(x, minlength=6) for x in conversations)
  assert np.abs(first / first.sum() - second / second.sum()).max() < 0.05


def test_the_loss_mask_says_which_tokens_are_answers():
  (batch,) = _batches(_mix(rows=1), count=1)
  first = batch['segment_ids'][0] == 1
  answers = batch['tokens'][0, first & batch['loss_mask'][0]]
  assert answers[-1] == tokenizer.EOS
  assert _layout().tokenizer.decode(answers).startswith('It is me')
  asked = batch['tokens'][0, first & ~batch['loss_mask'][0]]
  assert _layout().tokenizer.decode(asked).endswith('? ASSISTANT: ')


def test_the_loss_asks_for_every_answer_token():
  for batch in _batches(_mix(length=180), count=4):
    targets_BL, supervised_BL = losses.next_token_targets(batch)
    asked = np.asarray(targets_BL)[np.asarray(supervised_BL)]
    np.testing.assert_array_equal(asked, batch['tokens'][batch['loss_mask']])


def test_mixes_come_by_weight_and_never_in_one_batch():
  mixes = (
    _mix(media=('motion',), weight=3.0),
    _mix(media=('video',), weight=1.0, rows=1),
  )
  found = _batches(*mixes, count=40)
  assert sum('motion' in batch for batch in found) == 30
  for batch in found:
    assert ('motion' in batch) != ('frames' in batch)
    assert len(batch['tokens']) == (2 if 'motion' in batch else 1)


# --- Order and randomness ----------------------------------------------------


def _epoch(options, size=20, epochs=1, **mix_options):
  """Numbers of the records in the order in which one process sees them."""
  mix = _mix(size, rows=1, length=60, **mix_options)
  found = []
  for batch in _batches(mix, **options):
    found += map(_number, _unpack(batch))
    if len(found) >= epochs * size // options.get('process_count', 1):
      return found


def test_an_epoch_has_every_record_once_and_the_next_is_in_another_order():
  found = _epoch({}, epochs=2)
  first, second = found[:20], found[20:40]
  assert sorted(first) == sorted(second) == list(range(20))
  assert first != second
  assert first != list(range(20))


def test_the_seed_decides_the_order():
  assert _epoch({'seed': 1}) == _epoch({'seed': 1}) != _epoch({'seed': 2})


def test_mixes_of_one_source_do_not_go_through_it_in_step():
  found = _batches(_mix(rows=1), _mix(rows=1), count=8)
  numbers = [[_number(made) for made in _unpack(batch)] for batch in found]
  assert numbers[::2] != numbers[1::2]


def test_processes_share_an_epoch_between_them():
  shares = [
    _epoch({'process_index': i, 'process_count': 4})[:5] for i in range(4)
  ]
  assert sorted(itertools.chain(*shares)) == list(range(20))
  whole = _epoch({})[:20]
  assert [shares[i % 4][i // 4] for i in range(20)] == whole


def test_two_processes_have_batches_of_one_shape_with_other_records():
  mixes = (_mix(media=('motion',)), _mix(media=()))
  for a, b in zip(
    *(
      _batches(*mixes, count=8, process_index=i, process_count=2)
      for i in range(2)
    ),
    strict=True,
  ):
    assert {k: x.shape for k, x in a.items()} == {
      k: x.shape for k, x in b.items()
    }
    assert not np.array_equal(a['tokens'], b['tokens'])


def _joined(*numbers):
  mixes = (_mix(media=('motion',)), _mix())
  return iter(
    batches.join(
      {i: _batches(*mixes, process_index=i, process_count=4) for i in numbers}
    )
  )


def test_who_reads_the_same_shares_has_the_same_batches_and_goes_on():
  whole, parts = _joined(0, 1, 2, 3), [_joined(0, 1), _joined(2, 3)]

  def both():
    made = [next(part) for part in parts]
    return {key: np.concatenate([x[key] for x in made]) for key in made[0]}

  _same([both() for _ in range(3)], [next(whole) for _ in range(3)])
  # On disk, and then in other processes.
  state = json.loads(json.dumps(whole.get_state()))
  parts = [_joined(0, 2), _joined(1, 3)]
  for part in parts:
    part.set_state(state)
  expected, made = [next(whole) for _ in range(3)], [both() for _ in range(3)]
  order = [0, 1, 4, 5, 2, 3, 6, 7]  # Two rows of each share.
  made = [{key: x[order] for key, x in batch.items()} for batch in made]
  _same(made, expected)


def test_a_share_that_nobody_has_read_cannot_be_gone_on_with():
  with pytest.raises(ValueError, match='number 2, found 2; go on with as many'):
    _joined(1, 2).set_state(_joined(0, 1).get_state())
  with pytest.raises(ValueError, match='number 1, found none'):
    _joined(1, 2).set_state({'next_index': 3})


def test_a_record_is_viewed_anew_in_every_epoch_and_alike_by_every_process():
  record = samples.record(7, turns=8)
  view = views.View((), max_turns=1)
  mix = _mix(source=[record] * 6, view=view, rows=1, length=20)

  def drawn(count, **options):
    return [
      _layout().tokenizer.decode(batch['tokens'][0])
      for batch in _batches(mix, count=count, **options)
    ]

  whole = drawn(12)
  assert len(set(whole)) > 3
  assert whole[:6] != whole[6:]
  share = drawn(3, process_index=1, process_count=2)
  assert share == whole[1:6:2]


@pytest.mark.parametrize(
  'options', [{'read_threads': 3}, {'prefetch': 0}, {'prefetch': 5}]
)
def test_threads_change_no_batch(options):
  mixes = (_mix(media=('motion', 'video')), _mix(media=('words',)))
  _same(_batches(*mixes, count=12, **options), _batches(*mixes, count=12))


@pytest.mark.parametrize('options', [{}, {'prefetch': 0, 'read_threads': 2}])
def test_resuming_is_bit_identical(options):
  mixes = (
    _mix(media=('motion',), weight=2.0),
    _mix(media=(), rows=3),
    _mix(media=('video',), view=views.View(('video',), max_turns=1)),
    _mix(media=('words',)),
    _mix(media=('motion',), rows=3, bins=7, weight=2.0),
  )
  stream = _batches(*mixes, **options)
  iterator = iter(stream)
  for _ in range(9):
    next(iterator)
  state = json.loads(json.dumps(iterator.get_state()))
  expected = [next(iterator) for _ in range(10)]
  resumed = iter(stream)
  resumed.set_state(state)
  _same([next(resumed) for _ in range(10)], expected)


@functools.cache
def _walkers() -> tuple[records.Record, ...]:
  """Real bodies, which alone can be mirrored and seen badly."""
  made = (world.World().make_record('train', i) for i in range(6))
  return tuple(
    dataclasses.replace(
      record, turns=(records.Turn('What?', 'It walks left.'),), frames=None
    )
    for record in made
  )


@pytest.mark.parametrize('options', [{}, {'read_threads': 4}])
def test_variants_are_the_same_again_and_others_in_each_epoch(options):
  variants = augment.Augment(mirror=0.5, least_share=0.5, noise_share=0.5)
  mix = _mix(
    media=('motion',), source=_walkers(), augment=variants, motion_clips=2
  )
  stream = _batches(mix, **options)
  iterator = iter(stream)
  first = [next(iterator) for _ in range(4)]
  state = json.loads(json.dumps(iterator.get_state()))
  expected = [next(iterator) for _ in range(4)]
  resumed = iter(stream)
  resumed.set_state(state)
  _same([next(resumed) for _ in range(4)], expected)
  clips = [made['motion'] for b in (*first, *expected) for made in _unpack(b)]
  assert len({clip.tobytes() for clip in clips}) > 2 * len(_walkers())


@pytest.mark.parametrize('options', [{}, {'read_threads': 4}])
def test_flips_are_the_same_again_and_change_words_with_frames(options):
  """The first column is dark; in the mirror it is the last."""
  shown = np.full((2, 4, 4, 3), 200, np.uint8)
  shown[:, :, 0] = 0
  source = [
    dataclasses.replace(
      samples.record(n),
      frames=shown,
      turns=(records.Turn(f'Number {n}, where is it dark?', 'On the left.'),),
    )
    for n in range(6)
  ]
  mix = _mix(
    media=('video',), source=source, augment=augment.Augment(flip_share=0.5)
  )
  stream = _batches(mix, **options)
  iterator = iter(stream)
  first = [next(iterator) for _ in range(5)]
  state = json.loads(json.dumps(iterator.get_state()))
  expected = [next(iterator) for _ in range(5)]
  resumed = iter(stream)
  resumed.set_state(state)
  _same([next(resumed) for _ in range(5)], expected)
  _same(_batches(mix, count=10), first + expected)

  drawn = []
  for made in itertools.chain(*map(_unpack, first + expected)):
    said = _layout().tokenizer.decode(made['tokens'])
    is_flipped = made['frames'][0, 0, 0, -1, 0] == 0
    assert ('right' in said) == is_flipped
    assert ('left' in said) != is_flipped
    drawn.append(is_flipped)
  assert 0.2 < np.mean(drawn) < 0.8


def test_batches_and_windows_show_variants():
  """In the mirror, everybody walks right and is the mirrored body."""
  always = augment.Augment(mirror=1.0)
  mix = _mix(
    media=('motion',), source=_walkers(), augment=always, motion_clips=2
  )
  images = [
    STATISTICS.normalise(augment.mirrored(record).motion).astype(np.float32)
    for record in _walkers()
  ]
  for made in _unpack(_batches(mix, count=1)[0]):
    clip = made['motion'][0, : made['motion_length'][0]]
    assert any(np.array_equal(clip, image) for image in images)
    assert 'right' in _layout().tokenizer.decode(made['tokens'])
  (batch,) = itertools.islice(
    batches.motion_windows(
      _walkers(),
      statistics=STATISTICS,
      rows=4,
      seed=0,
      window=40,
      # A window is a cut itself: all its frames are there.
      augment=dataclasses.replace(always, least_share=0.1),
    ),
    1,
  )
  for window in batch['motion']:
    assert any(
      np.array_equal(window, image[start : start + 40])
      for image in images
      for start in range(len(image) - 39)
    )


def test_a_checkpoint_holds_the_iterator(tmp_path):
  stream = _batches(_mix(media=('motion',)), _mix(media=()))
  iterator = iter(stream)
  for _ in range(3):
    next(iterator)
  saver = checkpoint.Checkpointer(str(tmp_path))
  state = {'x': np.zeros(2, np.float32)}
  saver.save(3, state, iterator)
  expected = [next(iterator) for _ in range(4)]
  resumed = iter(stream)
  saver.restore(state, resumed)
  saver.close()
  _same([next(resumed) for _ in range(4)], expected)


def test_an_endless_source_is_read_only_where_it_is_needed():
  asked = []

  def fn(index):
    asked.append(index)
    return samples.record(index)

  source = batches.FunctionSource(fn, 10**9)
  _batches(_mix(source=source), count=1, prefetch=0)
  assert 2 <= len(asked) < 20
  assert max(asked) > 1000


# --- What is left out --------------------------------------------------------


def test_a_record_that_is_too_long_is_left_out_and_named(caplog):
  made = [samples.record(n, words=60 if n in (3, 5) else 1) for n in range(6)]
  with caplog.at_level(logging.WARNING):
    found = _epoch({}, size=4, source=made)
  assert sorted(found[:4]) == [0, 1, 2, 4]
  assert 'Record r3 is left out: it has' in caplog.text
  assert 'Record r5 is left out: it has' in caplog.text
  assert 'That makes 2 so far.' in caplog.text


@pytest.mark.parametrize(
  ('medium', 'missing'),
  [('motion', 'motion'), ('video', 'frames'), ('words', 'more_tokens')],
)
def test_a_record_without_what_its_mix_has_is_left_out(medium, missing, caplog):
  made = [samples.record(n, (medium,) if n % 2 else ()) for n in range(6)]
  with caplog.at_level(logging.WARNING):
    found = _epoch({}, size=3, media=(medium,), source=made)
  assert sorted(found[:3]) == [1, 3, 5]
  assert f'Record r2 is left out: it has no {missing}' in caplog.text


def test_words_are_left_out_of_rows_without_room_for_them(caplog):
  made = [samples.record(n, ('words',) if n % 2 else ()) for n in range(6)]
  with caplog.at_level(logging.WARNING):
    found = _epoch({}, size=3, source=made, view=views.View())
  assert sorted(found[:3]) == [0, 2, 4]
  assert 'more_tokens and a row has room for 0' in caplog.text


def test_a_record_without_a_turn_to_show_is_left_out(caplog):
  made = [
    dataclasses.replace(
      samples.record(n),
      turns=(
        records.Turn(f'Who is number {n}?', 'Me.', 'place' if n % 2 else ''),
      ),
    )
    for n in range(6)
  ]
  with caplog.at_level(logging.WARNING):
    found = _epoch({}, size=3, source=made)
  assert sorted(found[:3]) == [0, 2, 4]
  assert 'r3 is left out: expected a turn that text can answer' in caplog.text


def test_when_nothing_fits_it_says_so_instead_of_searching_for_ever():
  with pytest.raises(ValueError, match=r'1000 in a row .* room for 10'):
    _batches(_mix(length=10), count=1)


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: _batches(count=1), 'at least one mix'),
    (
      lambda: _batches(_mix(1), count=1, process_count=2, process_index=1),
      'each of 2 processes, found 1 records',
    ),
    (
      lambda: _batches(_mix(media=('motion',)), count=1, statistics=None),
      'expected statistics',
    ),
  ],
)
def test_what_is_missing_is_said(call, message):
  with pytest.raises(ValueError, match=message):
    call()


# --- Motion windows ----------------------------------------------------------


def _windows(source, count, **options):
  default = {'statistics': STATISTICS, 'rows': 4, 'seed': 0}
  stream = batches.motion_windows(source, **(default | options))
  return list(itertools.islice(stream, count))


def test_windows_are_pieces_of_the_normalised_clips():
  source = [samples.record(n, ('motion',)) for n in range(20, 30)]
  starts = set()
  for batch in _windows(source, 8, window=64):
    assert set(batch) == {'motion', 'ids'}
    assert batch['motion'].dtype == np.float32
    assert batch['motion'].shape == (4, 64, 263)
    for window_T263 in batch['motion']:
      first = STATISTICS.denormalise(window_T263)[0, 0]
      number, start = int(first), round(1000 * (first % 1))
      clip_T263 = STATISTICS.normalise(source[number - 20].motion)
      np.testing.assert_array_equal(window_T263, clip_T263[start : start + 64])
      starts.add(start)
  assert len(starts) > 10


def test_clips_shorter_than_a_window_are_left_out(caplog):
  source = [samples.record(n, ('motion',)) for n in range(10)]
  source.append(samples.record(10))
  with caplog.at_level(logging.WARNING):
    found = _windows(source, 5, window=64)
  numbers = {
    int(STATISTICS.denormalise(w)[0, 0]) for b in found for w in b['motion']
  }
  assert numbers == {6, 7, 8, 9}  # Clip n has 40 + 4n frames.
  assert 'Record r5 is left out: it has 60 motion frames' in caplog.text
  assert 'Record r10 is left out: it has 0 motion frames' in caplog.text


@pytest.mark.parametrize('window', [30, 0, -4, 200])
def test_a_window_is_whole_tokens_of_a_clip(window):
  message = f'window to be a multiple of 4 from 4 to 196, found {window}'
  with pytest.raises(ValueError, match=message):
    _windows([samples.record(39, ('motion',))], 1, window=window)
  assert _windows([samples.record(39, ('motion',))], 1, window=196)


def test_windows_resume_bit_identically():
  source = [samples.record(n, ('motion',)) for n in range(20, 30)]
  stream = batches.motion_windows(source, statistics=STATISTICS, rows=4, seed=0)
  iterator = iter(stream)
  for _ in range(3):
    next(iterator)
  state = json.loads(json.dumps(iterator.get_state()))
  resumed = iter(stream)
  resumed.set_state(state)
  _same([next(resumed) for _ in range(5)], [next(iterator) for _ in range(5)])


# --- Prompts -----------------------------------------------------------------


def _prompts(asked, **options):
  default = {
    'layout': _layout(),
    'statistics': STATISTICS,
    'rows': 4,
    'length': 120,
    'motion_clips': 1,
    'video_clips': 1,
  }
  return batches.prompts(asked, **(default | options))


def test_prompts_are_a_row_each_and_look_like_training():
  asked = [
    samples.record(1, ('motion', 'video')),
    samples.record(2, ('video',)),
    dataclasses.replace(
      samples.record(3, ('motion',)), video_text='red+ball two'
    ),
  ]
  batch = _prompts(asked, has_words=True)
  rows = samples.unpack(batch, motion_slots=49, video_tokens=VIDEO)
  assert [len(row) for row in rows] == [1, 1, 1, 0]
  for (made,), record in zip(rows[:3], asked, strict=True):
    alone = text.encode_prompt(record, _layout())
    for key in ('tokens', 'loss_mask', 'media_index'):
      np.testing.assert_array_equal(made[key], alone[key])
    more_lW = alone.get('more_tokens', text.NO_PLACE)
    assert (made['more_tokens'] == more_lW).all()
  assert (batch['more_tokens'] >= 0).any((1, 2)).tolist() == [0, 0, 1, 0]
  # Without a motion, the video still comes after the motion's slots.
  index = batch['media_index'][1]
  assert index[index >= 0].tolist() == list(range(49, 49 + VIDEO))
  assert batch['motion_length'].tolist() == [[44], [0], [52], [0]]
  assert batch['frames'][:, 0, 0, 0, 0, 0].tolist() == [1, 2, 0, 0]


def test_a_longer_bucket_and_more_rows_add_padding_only():
  asked = [samples.record(1, ('motion',)), samples.record(2, ('motion',))]
  small = _prompts(asked, rows=2, length=60, video_clips=0)
  large = _prompts(asked, rows=5, length=90, video_clips=0)
  for key, x in small.items():
    cut = large[key][:2]
    cut = cut[:, :60] if key in CONTRACT else cut
    np.testing.assert_array_equal(cut, x, key)
  assert not large['segment_ids'][2:].any()
  assert not large['segment_ids'][:, 60:].any()


@pytest.mark.parametrize(
  ('asked', 'options', 'message'),
  [
    ([], {}, 'Expected 1 to 4 records'),
    ([samples.record(1)] * 5, {}, 'found 5'),
    ([samples.record(8)], {'length': 9}, 'Record r8: .* room for 9'),
    (
      [samples.record(8, ('motion',))],
      {'motion_clips': 0},
      'Record r8: .*1 motion and a row has room for 0',
    ),
    ([samples.record(8)], {}, 'at least one element with motion'),
    (
      [samples.record(8, ('words',))],
      {},
      'Record r8: .*more_tokens and a row has room for 0',
    ),
  ],
)
def test_prompts_that_do_not_fit_are_errors(asked, options, message):
  with pytest.raises(ValueError, match=message):
    _prompts(asked, **options)


def test_parts_are_disjoint_and_together_everything():
  source = list(range(7))
  parts = [batches.part(source, number, 3) for number in range(3)]
  found = [[part[i] for i in range(len(part))] for part in parts]
  assert found == [[0, 3, 6], [1, 4], [2, 5]]
  for number in (-1, 3):
    with pytest.raises(ValueError, match=f'part from 0 to 2.*found {number}'):
      batches.part(source, number, 3)
  with pytest.raises(ValueError, match='of 2 records in 3 parts, found 2'):
    batches.part([0, 1], 2, 3)
