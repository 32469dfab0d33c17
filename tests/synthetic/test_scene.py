import dataclasses
import itertools

import numpy as np
import pytest

from vimonet_jax.motion import skeleton
from vimonet_jax.synthetic import (
  actions,
  language,
  places,
  raster,
  things,
  world,
)
from vimonet_jax.synthetic import scene as scenes

WAVE = actions.animate(
  [actions.Action('wave', side='left')], np.random.default_rng(0)
).joints
RUN = actions.animate(
  [actions.Action('run'), actions.Action('bend')], np.random.default_rng(1)
).joints


def _scene(**changes):
  facts = {'place': 'garden', 'object': 'box', 'colour': 'red'}
  return scenes.Scene(**{**facts, **changes})


def _film(scene, joints=WAVE, seed=0, **options):
  return scenes.render(joints, scene, np.random.default_rng(seed), **options)


def _difference(a, b):
  """Share of pixels that clearly differ, in each frame."""
  apart = np.abs(a.astype(int) - b.astype(int)).max(-1) > 40
  return apart.mean((1, 2))


def test_the_same_generator_gives_the_same_frames():
  one, two = _film(_scene(people=3)), _film(_scene(people=3))
  assert one.shape == (8, 48, 48, 3)
  assert one.dtype == np.uint8
  np.testing.assert_array_equal(one, two)
  assert (_film(_scene(people=3), seed=1) != one).mean() > 0.5


def test_frames_are_sampled_from_the_first_to_the_last():
  """The frame that is truncated from linspace, as video decoders take it."""
  frames = _film(_scene())
  sampled = np.linspace(0, len(WAVE) - 1, 8).astype(int)
  moved = WAVE.copy()
  moved[[t for t in range(len(WAVE)) if t not in sampled], 20] += 1e-3
  np.testing.assert_array_equal(_film(_scene(), moved), frames)
  assert _film(_scene(), frames=5).shape == (5, 48, 48, 3)


def test_names_are_single_words_that_mean_one_thing():
  facts = (*scenes.PLACES, *scenes.OBJECTS, *scenes.COLOURS)
  assert len(scenes.PLACES) == len(scenes.OBJECTS) == len(scenes.COLOURS) == 8
  assert len(set(facts)) == len(facts)
  rng = np.random.default_rng(0)
  said = set()
  for verb, spec in actions.VERBS.items():
    for values in itertools.product(
      spec.sides or ('',),
      spec.directions or ('',),
      spec.counts or (0,),
      spec.speeds or ('',),
    ):
      action = actions.Action(verb, *values)
      said |= set(language.clause(action, rng).split())
      said |= set(language.limb(action).split())
  said |= {*language.NUMBERS, *language.TIMES, *language.POSTURES.values()}
  for fact in facts:
    assert fact.isalpha()
    assert fact.islower()
    assert fact not in said


@pytest.mark.parametrize('colour', scenes.COLOURS)
def test_the_shirt_is_seen_in_its_colour(colour):
  """What changes with the shirt is of the shirt's colour, in every frame."""
  others = [c for c in scenes.COLOURS if c != colour]
  frames = _film(_scene(colour=colour, object='lamp'), RUN).astype(int)
  apart = np.stack([
    np.abs(frames - _film(_scene(colour=c, object='lamp'), RUN)).max(-1)
    for c in others
  ]).min(0)  # fmt: skip
  for frame, changed in zip(frames, apart > 25, strict=True):
    assert changed.sum() >= 12
    shown = np.median(frame[changed], axis=0)
    distances = {
      name: np.linalg.norm(shown - 0.9 * np.array(rgb))
      for name, rgb in scenes.COLOURS.items()
    }
    assert min(distances, key=distances.get) == colour


@pytest.mark.parametrize('seed', range(20))
def test_each_other_person_is_seen(seed, monkeypatch):
  """In the best frame of a drawn scene, not behind the first person."""
  rng = np.random.default_rng(seed)
  joints = actions.animate(world.draw_program(rng, 'train'), rng).joints
  scene = dataclasses.replace(world.draw_scene(rng, 'train'), people=3)
  frames = _film(scene, joints).astype(int)
  greys = scenes._GREYS  # noqa: SLF001
  assert len(greys) == scenes.MAX_PEOPLE - 1
  for k in range(len(greys)):
    # Who is painted in another colour has changed where they are seen.
    painted = (*greys[:k], (255, 0, 255), *greys[k + 1 :])
    with monkeypatch.context() as patch:
      patch.setattr(scenes, '_GREYS', painted)
      changed = np.abs(_film(scene, joints) - frames).max(-1) > 25
    assert changed.sum((1, 2)).max() >= 15


@pytest.mark.parametrize('thing', scenes.OBJECTS)
@pytest.mark.parametrize('joints', [WAVE, RUN], ids=['stays', 'crosses'])
def test_the_object_is_seen_in_every_frame(thing, joints, monkeypatch):
  for azimuth in (0.0, 100.0, 200.0, 300.0):
    scene = _scene(object=thing, azimuth_deg=azimuth)
    frames = _film(scene, joints)
    with monkeypatch.context() as patch:
      patch.setattr(things, 'solids', lambda _: raster.Builder().build())
      # Its width still says where it would stand.
      assert things.half_width(thing) > 0.2
      without = _film(scene, joints)
    assert (_difference(frames, without) > 0.015).all()


def test_every_place_and_object_is_another_picture():
  for name, values in (('place', scenes.PLACES), ('object', scenes.OBJECTS)):
    frames = [_film(_scene(**{name: value})) for value in values]
    for one, two in itertools.combinations(frames, 2):
      assert (_difference(one, two) > 0.02).all()


def test_furniture_fits_its_period():
  for place in scenes.PLACES:
    solids = places.furniture(place)
    half = places.PERIOD_M / 2
    assert np.abs(solids.quads[..., 0]).max() <= half + 0.05
    assert np.abs(solids.tubes[..., 0]).max(initial=0) <= half + 0.05


def test_the_camera_goes_round_the_person():
  """From the front a left hand is on the picture's right, from behind not."""
  joints = np.repeat(WAVE[:1], 8, axis=0)
  raised = joints.copy()
  raised[:, skeleton.INDEX['left_elbow'], 1] += 0.4
  raised[:, skeleton.INDEX['left_wrist'], 1] += 0.8
  for azimuth, side in ((0.0, 1), (180.0, -1)):
    hanging = _film(_scene(azimuth_deg=azimuth), joints)
    lifted = _film(_scene(azimuth_deg=azimuth), raised)
    changed = np.abs(hanging[0].astype(int) - lifted[0]).max(-1) > 30
    arm, shirt = (np.nonzero(m)[1] for m in (changed, _is_red(hanging[0])))
    assert side * (np.median(arm) - np.median(shirt)) > 1
  beside = _film(_scene(azimuth_deg=90.0), joints)
  assert (_difference(hanging, beside) > 0.02).all()


def _is_red(frame):
  red, green, blue = np.moveaxis(frame.astype(int), -1, 0)
  return (red > 90) & (green < 60) & (blue < 60)


def test_the_person_moves_as_the_joints_do():
  still = np.repeat(WAVE[:1], len(WAVE), axis=0)
  frames = _film(_scene(), still)
  # Grain and light are those of the clip: a still clip is one picture.
  assert (frames == frames[:1]).all()
  assert (_difference(_film(_scene())[1:], _film(_scene())[:-1]) > 0).any()


def test_the_person_is_large_and_whole_in_every_frame():
  for seed in range(4):
    for azimuth in (0.0, 45.0, 90.0):
      frames = _film(_scene(azimuth_deg=azimuth), RUN, seed=seed)
      shirts = np.array([_is_red(frame).sum() for frame in frames])
      assert shirts.min() >= 10
      assert np.median(shirts) >= 40


def test_larger_frames_show_the_same():
  small, large = _film(_scene()), _film(_scene(), size=224)
  assert large.shape == (8, 224, 224, 3)
  mean = [small.mean((0, 1, 2)), large.mean((0, 1, 2))]
  np.testing.assert_allclose(*mean, atol=4)
  shares = [
    np.mean([_is_red(frame).mean() for frame in frames])
    for frames in (small, large)
  ]
  assert shares[0] == pytest.approx(shares[1], rel=0.25)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'place': 'moon'}, "place one of kitchen, .* found 'moon'"),
    ({'object': 'tree'}, "object one of ball, .* found 'tree'"),
    ({'colour': 'grey'}, "colour one of red, .* found 'grey'"),
    ({'people': 4}, 'people one of 1, 2, 3, found 4'),
    ({'people': 0}, 'people one of 1, 2, 3, found 0'),
  ],
)
def test_what_cannot_be_shown_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    _scene(**changes)
