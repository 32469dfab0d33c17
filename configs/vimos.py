"""VIMOS from its sources: folders that you obtained under their licences.

    python -m vimonet_jax.main --config=configs/vimos.py \
      --config.data.sources.humanml3d.path=DIR \
      --config.data.sources.humanml3d.qa_files="('FILE',)" \
      --config.data.sources.video_chatgpt.path=DIR \
      --config.data.sources.video_chatgpt.files="('FILE',)" \
      --config.data.sources.video_chatgpt.licence=WHICH

What each source has, lacks and cannot read is printed before the dataset is
built, and kept beside it with a card of what is in it (data/vimos/joined/).

    configs/vimos.py               the model and stages of configs/vicuna7b.py
    configs/vimos.py:motion        without videos
    configs/vimos.py:tiny          a small model, for two CPU cores
    configs/vimos.py:tiny-motion   without videos
    configs/vimos.py:smoke, :smoke-motion   the same with few steps

A source whose path is empty is not used. More can be written in the same way;
see vimonet_jax/named_sources.py.
"""

import copy
import pathlib
import runpy

import ml_collections

_ARGS = ('', 'motion', 'tiny', 'tiny-motion', 'smoke', 'smoke-motion')
_AMASS = 'AMASS, non-commercial scientific research'


def _sources() -> dict[str, dict]:
  """Fields of the sources' classes; without a licence there is no build."""
  questions = {
    # JSON lines of ours, MoVid's, `conversations`; see data/qa_files.py.
    'qa_files': (),
    'qa_domain': '',  # where they do not say it; a key of records.DOMAINS
  }
  return {
    # HumanML3D as its scripts leave it. A folder of your own in its layout goes
    # under a name of your own: ids in here are taken for HumanML3D's, which
    # other sources have, too.
    'humanml3d': {
      'kind': 'folder',
      'path': '',
      'licence': f'HumanML3D, MIT; {_AMASS}',
      **questions,
    },
    # Or the same clips, made here of AMASS: `humanml3d` has index.csv, the
    # split files and texts. Joints are exact with SMPL-H's model files only.
    'amass': {
      'kind': 'amass',
      'path': '',
      'humanml3d': '',
      'body_models': '',
      'licence': f'HumanML3D, MIT; {_AMASS}',
      **questions,
    },
    'motionx': {
      'kind': 'motionx',
      'path': '',
      'body_models': '',
      'licence': 'Motion-X, non-commercial scientific research',
      **questions,
    },
    # Its test is never trained on, and with BABEL's own files (`babel`) neither
    # are clips of the same recordings in other sources.
    'babel_qa': {
      'kind': 'babel_qa',
      'questions': '',
      'split_file': '',
      'motions': '',
      'segments': '',
      'babel': '',
      'licence': f'BABEL, non-commercial scientific research; {_AMASS}',
    },
    'valley': _videos('video_caption'),
    'video_chatgpt': _videos(''),
  }


def _videos(domain: str) -> dict:
  return {
    'kind': 'videos',
    'path': '',
    'files': (),
    'licence': '',
    'domain': domain,  # of turns that do not say it
    'held_out': 0.01,  # of the videos, in val and in test each
    'split_path': '',
    'names': '',  # motionx, where they are Motion-X's
  }


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """Sizes of the paper, or small ones; `motion` where there are no videos."""
  if arg not in _ARGS:
    raise ValueError(
      f'Expected configs/vimos.py:{" or :".join(_ARGS[1:])} or no argument, '
      f"found ':{arg}'."
    )
  size, _, motion = arg.partition('-')
  has_video = 'motion' not in (size, motion)
  is_small = size in ('tiny', 'smoke')
  if is_small:
    config = _small('smoke' if size == 'smoke' else '', has_video)
  else:
    config = _paper(has_video)
  config.workdir = 'workdir/vimos' + (f'-{arg}' if arg else '')
  known = config.data
  config.data = ml_collections.ConfigDict({
    'name': 'joined',
    'sources': _sources(),
    # HumanML3D's index.csv, which tells clips of one recording; not needed
    # beside `amass`.
    'index': '',
    # Published splits, too, have to keep clips of one recording together.
    'strict': False,
    'min_frames': known.get('min_frames', 40),
    'image_size': known.image_size,
    'processes': 2,
    # Records that cannot be made, as of videos that are cut off: they are left
    # out and named in failed.txt, and one more ends the build.
    'max_failed': 20,
    # '', 'direct' or 'dataflow': who makes the records; see data/beam.py. The
    # options are Beam's flags, ('--project=P', '--region=R').
    'beam': '',
    'beam_options': (),
    'read_threads': known.read_threads,
    # In how many shares the processes of a cluster read them, so that another
    # number of processes sees the same batches; 0: one for each.
    'shares': 0,
    # Damaged records that training passes over, of each process's share; a
    # stage names them in skipped-<process>.jsonl, and one more ends the run.
    'max_corrupt': 10,
    'root_gain': known.root_gain,
  })  # fmt: skip
  if is_small:
    config.data.augment = known.augment
    # What is counted, or comes last, may be in the part that a cut takes off.
    config.data.augment.least_share = 1.0
  return config


def _paper(has_video: bool) -> ml_collections.ConfigDict:
  config = _preset('vicuna7b', '' if has_video else 'motion')
  if has_video:
    # Only Motion-X's clips with a video have both: for them, add it again.
    del config.instruct.mixes['both']
  else:
    # There are questions, not captions alone.
    config.instruct.mixes.motion.update({'caption_share': 0.0, 'max_turns': 4})
  return config


def _small(arg: str, has_video: bool) -> ml_collections.ConfigDict:
  config = _preset('mocap', arg)
  if has_video:
    config.stage_names = ('motion', 'language', 'video', 'align', 'instruct')
    for name in ('align', 'instruct'):
      config[name].mixes.video = copy.deepcopy(config.video.mixes.video)
  for name in ('align', 'instruct'):
    for mix in config[name].mixes.values():
      mix.update({'caption_share': 0.3, 'max_turns': 3, 'length': 256})
  if has_video:
    config.video.mixes.video.length = 256
  return config


def _preset(name: str, arg: str) -> ml_collections.ConfigDict:
  # From wherever the program is started.
  path = pathlib.Path(__file__).with_name(f'{name}.py')
  return runpy.run_path(str(path))['get_config'](arg)
