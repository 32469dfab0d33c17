"""The front door: `python -m vimonet_jax.main --config=configs/tiny.py`.

Flags, one table from task to function, and how a task ends. Each function
imports what it needs when it is called.
"""

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from vimonet_jax import outputs, signing

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Configuration, e.g. configs/tiny.py or configs/tiny.py:smoke'
)
_TASK = flags.DEFINE_string('task', None, "What to do; default: the config's.")
_WORKDIR = flags.DEFINE_string(
  'workdir', None, "Where everything is kept; default: the config's."
)
_MOTION = flags.DEFINE_string('motion', None, 'chat: a motion file.')
_VIDEO = flags.DEFINE_string(
  'video', None, 'chat: a video or image folder. monitor: a video.'
)
_QUESTION = flags.DEFINE_string(
  'question',
  None,
  'chat: one question; without it a conversation starts. monitor: one for each '
  'window.',
)
_INPUT = flags.DEFINE_string(
  'input',
  None,
  'features: a motion file, or a folder that has some. answer: questions, a '
  'JSON line each. monitor: a motion file, or - for joints that arrive. '
  'verify: a file or folder with a manifest. detect: what answer has written, '
  'or plain text.',
)
_PUBLIC_KEY = flags.DEFINE_string(
  'public_key', None, 'verify: the public key of whom you trust, a .pub file.'
)
_ANIMATE = flags.DEFINE_bool('animate', False, 'features: draw GIFs, too.')
_OUTPUT = flags.DEFINE_string(
  'output',
  None,
  'show, features, convert, export, parity, plan, annotate, audit, monitor: '
  'the folder to write to. answer: the file.',
)
_SAMPLING = flags.DEFINE_string(
  'sampling',
  'greedy',
  'chat, answer, demo, serve: greedy, or motionllm, which draws.',
)
_SOURCE = flags.DEFINE_string(
  'source', None, 'convert: a file or folder with weights of PyTorch.'
)
_FORMAT = flags.DEFINE_string(
  'format', None, 'convert: what wrote them, e.g. llama; names them all if not.'
)
_STATISTICS = flags.DEFINE_string(
  'statistics', None, 'convert: mean and std that a motion VQ-VAE goes with.'
)
_FPS = flags.DEFINE_float('fps', None, 'Frame rate of --motion or --input.')
_UP = flags.DEFINE_enum(
  'up', None, ['x', 'y', 'z'], 'Up axis of --motion or --input.'
)
_UNIT = flags.DEFINE_enum(
  'unit',
  None,
  ['m', 'cm', 'mm', 'inch'],
  'Length unit of --motion or --input.',
)
_RECORD = flags.DEFINE_string(
  'record', 'test:0', 'show: split and number of a record, e.g. test:0.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  False,
  'This is one of several processes, which JAX finds by itself: on TPU pods, '
  'GKE, Slurm and Open MPI.',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'HOST:PORT of the first process, for other launchers.'
)
_PROCESSES = flags.DEFINE_integer(
  'processes', None, 'How many processes there are, with --coordinator.'
)
_PROCESS = flags.DEFINE_integer(
  'process', None, 'Which one this is, from 0, with --coordinator.'
)


def _pipeline(config, workdir: str) -> int:
  from vimonet_jax import allocator, compiled, pipeline

  allocator.keep_freed()
  compiled.keep(workdir)
  return pipeline.run(config, workdir)


def _eval(config, workdir: str) -> int:
  from vimonet_jax import compiled, evaluation

  compiled.keep(workdir)
  return evaluation.run(config, workdir)


def _score(config, workdir: str) -> int:
  from vimonet_jax import evaluation

  return evaluation.run_score(config, workdir)


def _report(config, workdir: str) -> int:
  from vimonet_jax import evaluation

  return evaluation.run_report(config, workdir)


def _chat(config, workdir: str) -> int:
  from vimonet_jax.apps import chat
  from vimonet_jax.audit import privacy, watermark

  return chat.run(
    workdir,
    motion=_MOTION.value,
    video=_VIDEO.value,
    question=_QUESTION.value,
    fps=_FPS.value,
    up=_UP.value,
    unit=_UNIT.value,
    sampling=_SAMPLING.value,
    seed=config.seed,
    quantize=config.get('eval', {}).get('quantize', ''),
    motion_only=privacy.is_motion_only(config),
    mark=watermark.from_config(config),
  )


def _answer(config, workdir: str) -> int:
  from vimonet_jax import compiled
  from vimonet_jax.apps import answer
  from vimonet_jax.audit import privacy, watermark

  compiled.keep(workdir)
  return answer.run(
    workdir,
    _INPUT.value,
    _OUTPUT.value,
    sampling=_SAMPLING.value,
    seed=config.seed,
    quantize=config.get('eval', {}).get('quantize', ''),
    max_rows=config.eval.rows,
    motion_only=privacy.is_motion_only(config),
    mark=watermark.from_config(config),
  )


def _serve(config, workdir: str) -> int:
  from vimonet_jax import compiled
  from vimonet_jax.apps import serve

  compiled.keep(workdir)
  return serve.run(config, workdir, sampling=_SAMPLING.value)


def _monitor(config, workdir: str) -> int:
  from vimonet_jax import compiled
  from vimonet_jax.apps import monitor
  from vimonet_jax.audit import privacy

  compiled.keep(workdir)
  return monitor.run(
    workdir,
    _INPUT.value,
    _OUTPUT.value,
    video=_VIDEO.value,
    question=_QUESTION.value,
    settings=config.monitor.to_dict(),
    fps=_FPS.value,
    up=_UP.value,
    unit=_UNIT.value,
    quantize=config.get('eval', {}).get('quantize', ''),
    motion_only=privacy.is_motion_only(config),
  )


def _detect(config, workdir: str) -> int:
  from vimonet_jax.apps import detect
  from vimonet_jax.audit import watermark

  return detect.run(workdir, _INPUT.value, watermark.from_config(config))


def _show(config, workdir: str) -> int:
  from vimonet_jax import pipeline

  return pipeline.show_record(
    config, workdir, record=_RECORD.value, output=_OUTPUT.value
  )


def _demo(config, workdir: str) -> int:
  from vimonet_jax import compiled, pipeline
  from vimonet_jax.apps import demo, uploads
  from vimonet_jax.audit import log, policy, privacy, watermark

  compiled.keep(workdir)
  motion_only = privacy.is_motion_only(config)
  hidden = ['frames'] if motion_only else []
  return demo.run(
    workdir,
    config.demo.to_dict(),
    held=lambda: pipeline.held_out(config, workdir, hidden),
    policy=policy.read(config),
    limits=uploads.limits(config),
    motion_only=motion_only,
    sampling=_SAMPLING.value,
    seed=config.seed,
    quantize=config.get('eval', {}).get('quantize', ''),
    mark=watermark.from_config(config),
    log=lambda: log.of(config),
  )


def _features(config, workdir: str) -> int:
  from vimonet_jax.apps import features

  del config, workdir  # Features are the same for every model.
  return features.run(
    _INPUT.value,
    _OUTPUT.value,
    fps=_FPS.value,
    up=_UP.value,
    unit=_UNIT.value,
    animate=_ANIMATE.value,
  )


def _convert(config, workdir: str) -> int:
  from vimonet_jax import importing

  del workdir  # Weights belong to no run.
  return importing.convert(
    config,
    source=_SOURCE.value,
    format=_FORMAT.value,
    output=_OUTPUT.value,
    statistics=_STATISTICS.value,
  )


def _assemble(config, workdir: str) -> int:
  from vimonet_jax import outcome

  return outcome.assemble(config, workdir)


def _export(config, workdir: str) -> int:
  from vimonet_jax import exporting

  return exporting.export(config, workdir, output=_OUTPUT.value)


def _parity(config, workdir: str) -> int:
  from vimonet_jax import comparison

  return comparison.run(config, workdir, output=_OUTPUT.value)


def _plan(config, workdir: str) -> int:
  from vimonet_jax import planning

  return planning.run(config, workdir, output=_OUTPUT.value)


def _study(config, workdir: str) -> int:
  from vimonet_jax import allocator, compiled, study

  allocator.keep_freed()
  compiled.keep(workdir)
  return study.run(config, workdir)


def _annotate(config, workdir: str) -> int:
  from vimonet_jax import annotate

  settings = config.get('annotate')
  return annotate.run(
    settings.to_dict() if settings else {},
    _OUTPUT.value or os.path.join(workdir, 'annotation'),
  )


def _verify(config, workdir: str) -> int:
  from vimonet_jax.audit import verify

  del workdir  # What is verified may come from anywhere.
  path = _INPUT.value
  is_folder = path and os.path.isdir(path)
  return verify.run(
    path,
    _PUBLIC_KEY.value,
    secret_file=config.get('log', {}).get('secret_file', ''),
    lacking=signing.without_manifest(path, config) if is_folder else (),
  )


def _audit(config, workdir: str) -> int:
  from vimonet_jax import auditing, compiled

  compiled.keep(workdir)
  return auditing.run(config, workdir, output=_OUTPUT.value)


TASKS = {
  'pipeline': _pipeline,
  'eval': _eval,
  'score': _score,
  'report': _report,
  'chat': _chat,
  'answer': _answer,
  'serve': _serve,
  'monitor': _monitor,
  'detect': _detect,
  'demo': _demo,
  'show': _show,
  'features': _features,
  'convert': _convert,
  'assemble': _assemble,
  'export': _export,
  'parity': _parity,
  'plan': _plan,
  'annotate': _annotate,
  'study': _study,
  'verify': _verify,
  'audit': _audit,
}


# Tasks that keep what they have done when they are stopped.
_RESUMED = ('pipeline', 'eval', 'annotate', 'study', 'answer', 'audit')
# Tasks that need the extra of setup.py that is called like them.
_EXTRAS = ('demo', 'parity', 'serve')
# Tasks whose --output is no folder.
_TO_A_FILE = ('answer',)
# What a wrong path comes to where nobody has looked at it before.
_OF_PATHS = (
  FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError,
)  # fmt: skip
# Tasks that several processes can do together.
_TOGETHER = ('pipeline', 'eval', 'report')


def _join(task: str) -> bool:
  """Meets the other processes, if the launcher says that there are some.

  Returns:
    whether there are.
  """
  address = (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
  if not _DISTRIBUTED.value and address == (None, None, None):
    return False
  if task not in _TOGETHER:
    raise ValueError(
      f'Expected --task={task} in one process, found flags for several; start '
      f'it once, without them ({", ".join(_TOGETHER)} take them).'
    )
  from vimonet_jax import cluster

  cluster.join(*address)
  return True


def _check_folder(flag: str, path: str) -> None:
  if '://' in path:
    raise ValueError(
      f'Expected {flag} to be a folder of a mounted file system, found {path}; '
      'mount the bucket on every host and name the folder there.'
    )
  if os.path.isfile(path):
    raise ValueError(
      f'Expected {flag} to be a folder, found the file {path}; name another.'
    )


@contextlib.contextmanager
def _hears_ctrl_c() -> Iterator[None]:
  """A Ctrl-C that nobody heard is sent again.

  One that falls into a callback of the garbage collector (jax has one) can only
  be printed there, and the work would go on.
  """
  before = sys.unraisablehook

  def send_again(unraisable):
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
      return before(unraisable)
    # A moment later, when the callback is left.
    timer = threading.Timer(0.05, _thread.interrupt_main)
    timer.daemon = True
    timer.start()

  sys.unraisablehook = send_again
  try:
    yield
  finally:
    sys.unraisablehook = before


def main(argv: list[str]) -> int:
  if len(argv) > 1:
    raise app.UsageError(f'Expected flags only, found {" ".join(argv[1:])}.')
  config = _CONFIG.value
  if config is None:
    raise app.UsageError(
      'Expected --config, e.g. --config=configs/tiny.py, found none.'
    )
  task = _TASK.value or config.task
  if task not in TASKS:
    raise app.UsageError(
      f'Expected --task to be one of {", ".join(TASKS)}, found {task!r}.'
    )
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  try:
    with _hears_ctrl_c():
      workdir = _WORKDIR.value or config.workdir
      _check_folder('--workdir', workdir)
      if task not in _TO_A_FILE:
        _check_folder('--output', _OUTPUT.value or '')
      command = outputs.Command(
        task,
        config,
        workdir,
        _INPUT.value or _SOURCE.value,
        _OUTPUT.value,
        _VIDEO.value,
      )
      is_joined = _join(task)
      with signing.signed(
        command, is_resumed=task in _RESUMED, is_joined=is_joined
      ):
        return TASKS[task](config, workdir)
  except KeyboardInterrupt:
    how = 'goes on from here' if task in _RESUMED else 'starts anew'
    print(f'\nStopped; the same command {how}.', file=sys.stderr)
    return 128 + signal.SIGINT
  except (ValueError, OSError, FloatingPointError, ImportError) as error:
    # Settings, data or an installation that do not fit.
    if not (sentence := _sentence(error, task)):
      raise
    print(f'\n{sentence}\n(--verbosity=1 shows where.)', file=sys.stderr)
    logging.debug('It was raised here:', exc_info=True)
    return 1


def _sentence(error: Exception, task: str) -> str:
  """What is told of an error; nothing where it is a bug.

  Ours are written for the user. The system's only name a path, and Python's a
  module: of a package that is not there, or else it is a bug.
  """
  if isinstance(error, _OF_PATHS) and error.filename:
    return (
      f'Expected to open {error.filename}, found: {error.strerror}; correct '
      'the path, or who may use it.'
    )
  if isinstance(error, ImportError) and error.name:
    package = error.name.partition('.')[0]
    if package == 'vimonet_jax' or not isinstance(error, ModuleNotFoundError):
      return ''
    extra = f'[{task}]' if task in _EXTRAS else ''
    return (
      f'Expected the package {package}, found none; pip install -e '
      f"'.{extra}' gets what --task={task} needs."
    )
  return str(error)


def parse(argv: list[str]) -> list[str]:
  """absl's parser; a file or setting that there is not is one sentence, too."""
  for flag, after in zip(argv[1:], [*argv[2:], ''], strict=False):
    name, has_value, value = flag.partition('=')
    path = (value if has_value else after).partition(':')[0]
    if name in ('--config', '-config') and not os.path.isfile(path):
      _refuse(
        f'Expected --config to name a file, found no {path or "name"} in '
        f'{os.getcwd()}; correct it, or start in the folder that has configs/.'
      )
  try:
    return flags.FLAGS(argv)
  except (AttributeError, KeyError) as error:
    settings = [x for x in argv[1:] if x.startswith('--config.')]
    told = error
    while isinstance(told, Exception):  # Some carry another one as their text.
      told = told.args[0]
    told = ' '.join(str(told).split())
    field = told.split(' ')[0].strip('\'"')
    named = [x for x in settings if field in x.partition('=')[0].split('.')]
    _refuse(
      f'Expected settings of the configuration, found {told} among '
      f'{" ".join(named or settings)}; its file lists those that there are.'
    )
  except flags.Error as error:
    # What absl would say; parsed again, settings would be defined twice.
    *before, last = str(error).strip().splitlines()
    kind, _, told = last.strip().partition(': ')
    if kind == 'ValueError':  # Raised by the configuration's file.
      _refuse(told)
    if before:  # Likewise, and a mistake in it.
      _refuse(str(error))
    _refuse(
      'Expected flags that there are, with values of their kind, found '
      f'{last.rstrip(".")}; --helpshort lists flags, the file of --config '
      'settings.'
    )


def _refuse(sentence: str) -> NoReturn:
  print(f'\n{sentence}', file=sys.stderr)
  sys.exit(1)


if __name__ == '__main__':
  sys.exit(app.run(main, flags_parser=parse))
