"""What the scripts of launch/ would do; none of their tools is needed."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[1] / 'launch'
# A flag that a shell, or YAML, would take apart.
FLAGS = [
  '--config=configs/tiny.py',
  '--config.instruct.lora.targets=("q", "v")',
]
TPU = '--name=pod --zone=us-west4-a --type=v5litepod-16 --runtime=v2-alpha'
GKE = '--name=run --accelerator=tpu-v5-lite-podslice --image=i:1 --claim=nfs'
ENOUGH = {
  'gpu.sh': '',
  'slurm.sh': '--nodes=2 --gpus-per-node=8',
  'tpu_pod.sh': f'train {TPU}',
  'gke.sh': f'{GKE} --topology=4x4',
}


def _run(script, options, flags=FLAGS):
  return subprocess.run(
    [
      LAUNCH / script,
      *shlex.split(options),
      *(['--', *flags] if flags else []),
    ],
    # Nothing but a shell's own tools: a script that called others would fail.
    env={'PATH': '/usr/bin:/bin'},
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
  )


def _dry(script, options='', flags=FLAGS) -> str:
  found = _run(script, f'{options or ENOUGH[script]} --dry-run', flags)
  assert found.returncode == 0, found.stderr
  assert not found.stderr
  return found.stdout


def _fake(path, body):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f'#!/usr/bin/env bash\n{body}\n')
  path.chmod(0o755)


def _pod(path, options, flags=FLAGS, **answers):
  """Runs tpu_pod.sh with a gcloud that answers what is given, and no naps.

  A verb's answers are lines of shell for its first call, its second and so on;
  the last one stays. Returns what was found and the verbs in their order.
  """
  for verb, lines in answers.items():
    (path / verb).write_text('\n'.join(lines) + '\n')
  _fake(
    path / 'bin/gcloud',
    f"""cd {shlex.quote(str(path))} || exit
case $* in
  *'queued-resources describe'*) verb=describe ;;
  *'queued-resources create'*) verb=create ;;
  *'queued-resources delete'*) verb=delete ;;
  *' scp '*) verb=copy ;;
  *'uv venv'*) verb=install ;;
  *nohup*) verb=start ;;
  *MOUNT*) verb=mount ;;
  *'|| echo busy'*) verb=busy ;;
  *'cat vimonet_jax_run'*) verb=poll ;;
esac
echo $verb >>verbs
[[ -e $verb ]] || exit 0
answer=$(head -n 1 $verb)
(($(wc -l <$verb) == 1)) || sed -i 1d $verb
eval "$answer"
""",
  )
  _fake(path / 'bin/sleep', 'exit 0')
  found = subprocess.run(
    [
      LAUNCH / 'tpu_pod.sh',
      *shlex.split(f'{options} {TPU}'),
      *(['--', *flags] if flags else []),
    ],
    env={'PATH': f'{path}/bin:/usr/bin:/bin', 'TMPDIR': str(path)},
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=60,
  )
  return found, (path / 'verbs').read_text().split()


def _wait_for(path) -> str:
  """What is in a file, once its first line is."""
  for _ in range(600):
    if path.exists() and path.read_text().endswith('\n'):
      break
    time.sleep(0.1)
  return path.read_text()


def _commands(output) -> list[list[str]]:
  lines = [line for line in output.splitlines() if not line.startswith('#')]
  return [shlex.split(line) for line in lines]


def test_every_script_is_known_here():
  assert {path.name for path in LAUNCH.glob('*.sh')} == set(ENOUGH)


def test_one_box_runs_one_process():
  (command,) = _commands(_dry('gpu.sh', '--gpus=0,1'))
  assert command == [
    'env', 'CUDA_VISIBLE_DEVICES=0,1', 'python', '-m', 'vimonet_jax.main',
    *FLAGS,
  ]  # fmt: skip
  (command,) = _commands(_dry('gpu.sh'))
  assert command == ['python', '-m', 'vimonet_jax.main', *FLAGS]


@pytest.mark.parametrize(
  ('statuses', 'status', 'runs'),
  [('0', 0, 1), ('143 0', 0, 2), ('143 143 143 0', 143, 3), ('1 0', 1, 1)],
)
def test_one_box_goes_on_after_it_was_stopped(tmp_path, statuses, status, runs):
  (tmp_path / 'statuses').write_text(statuses.replace(' ', '\n') + '\n')
  _fake(
    tmp_path / 'python',
    f'cd {shlex.quote(str(tmp_path))}\n'
    'echo "$*" >>asked\n'
    'exit "$(sed -n "$(wc -l <asked)p" statuses)"',
  )
  found = subprocess.run(
    [LAUNCH / 'gpu.sh', '--tries=3', '--', *FLAGS],
    env={'PATH': f'{tmp_path}:/usr/bin:/bin'},
  )
  assert found.returncode == status
  asked = (tmp_path / 'asked').read_text().splitlines()
  assert asked == [' '.join(['-m', 'vimonet_jax.main', *FLAGS])] * runs


@pytest.mark.parametrize('tries', [1, 3])
@pytest.mark.parametrize('status', [0, 143])
def test_one_box_that_is_stopped_stops_its_program(tmp_path, tries, status):
  """The program saves, which takes a while, and is not started again."""
  _fake(
    tmp_path / 'python',
    f"""exec {sys.executable} -c '
import signal, sys, time
def stop(*_):
  time.sleep(0.5)
  print("saved", flush=True)
  sys.exit({status})
signal.signal(signal.SIGTERM, stop)
with open("{tmp_path}/started", "a") as f: print("started", file=f)
time.sleep(60)'""",
  )
  with subprocess.Popen(
    [LAUNCH / 'gpu.sh', f'--tries={tries}', '--', *FLAGS],
    env={'PATH': f'{tmp_path}:/usr/bin:/bin'},
    stdout=subprocess.PIPE,
    text=True,
  ) as script:
    _wait_for(tmp_path / 'started')
    script.terminate()
    said, _ = script.communicate(timeout=60)
  assert said == 'saved\n'
  assert script.returncode == status
  assert _wait_for(tmp_path / 'started') == 'started\n'


@pytest.fixture
def hears_ctrl_c():
  """Tests that run in the background do not, nor would what they start."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('hears_ctrl_c')
@pytest.mark.parametrize('tries', [1, 3])
def test_one_box_hears_of_ctrl_c(tmp_path, tries):
  _fake(
    tmp_path / 'python',
    f"""exec {sys.executable} -c '
import time
with open("{tmp_path}/started", "a") as f: print("started", file=f)
try: time.sleep(60)
except KeyboardInterrupt: print("interrupted")'""",
  )
  with subprocess.Popen(
    [LAUNCH / 'gpu.sh', f'--tries={tries}', '--', *FLAGS],
    env={'PATH': f'{tmp_path}:/usr/bin:/bin'},
    stdout=subprocess.PIPE,
    text=True,
    process_group=0,
  ) as script:
    _wait_for(tmp_path / 'started')
    os.killpg(script.pid, signal.SIGINT)
    said, _ = script.communicate(timeout=60)
  assert said == 'interrupted\n'


def test_slurm_starts_a_process_a_gpu_and_queues_again():
  output = _dry('slurm.sh', '--nodes=2 --gpus-per-node=8 --partition=big')
  submit, job = output.split('<<JOB\n')
  submit = shlex.split(submit)
  assert submit[0] == 'sbatch'
  assert {
    '--nodes=2',
    '--gpus-per-node=8',
    '--ntasks-per-node=8',
    '--signal=B:TERM@300',
    '--requeue',
    '--partition=big',
  } <= set(submit)
  (run,) = [line for line in job.splitlines() if 'vimonet_jax.main' in line]
  command = ['python', '-m', 'vimonet_jax.main', '--distributed', *FLAGS]
  assert shlex.split(run) == [*command, '&']
  for part in ('srun ', 'scancel --signal=TERM', 'scontrol requeue'):
    assert part in job
  found = subprocess.run(
    ['bash', '-n'], input=job.removesuffix('JOB\n'), text=True
  )
  assert found.returncode == 0


@pytest.mark.parametrize(
  ('told', 'status', 'state', 'requeued'),
  [
    ('tasks', 143, 'RUNNING', True),  # Preempted, with a time of grace.
    ('tasks', 143, 'COMPLETING', False),  # Cancelled.
    ('tasks', 134, 'RUNNING', False),
    ('tasks', 1, 'RUNNING', False),
    ('tasks', 0, 'RUNNING', False),
    ('shell', 143, 'RUNNING', True),  # Five minutes before the time limit.
    ('shell', 134, 'RUNNING', True),
    ('shell', 1, 'RUNNING', False),
    ('shell', 0, 'RUNNING', False),  # It was at its end anyway.
  ],
)
def test_a_slurm_job_that_was_stopped_queues_again(
  tmp_path, told, status, state, requeued
):
  job = _dry('slurm.sh').split('<<JOB\n')[1].removesuffix('JOB\n')
  _fake(
    tmp_path / 'srun',
    f"""exec {sys.executable} -c '
import os, signal, sys, time
def stop(*_):
  time.sleep(0.2)
  sys.exit({status})
signal.signal(signal.SIGTERM, stop)
with open("{tmp_path}/tasks", "a") as f: print(os.getpid(), file=f)
time.sleep(60)'""",
  )
  _fake(tmp_path / 'scancel', f'echo "$*" >{tmp_path}/asked')
  _fake(tmp_path / 'squeue', f'echo {state}')
  _fake(tmp_path / 'scontrol', 'echo "$*"')
  with subprocess.Popen(
    ['bash', '-c', job],
    env={'PATH': f'{tmp_path}:/usr/bin:/bin', 'SLURM_JOB_ID': '7'},
    stdout=subprocess.PIPE,
    text=True,
  ) as shell:
    tasks = int(_wait_for(tmp_path / 'tasks'))
    if told == 'shell':
      shell.terminate()
      assert _wait_for(tmp_path / 'asked') == '--signal=TERM 7.0\n'
    os.kill(tasks, signal.SIGTERM)
    said, _ = shell.communicate(timeout=60)
  assert said == ('requeue 7\n' if requeued else '')
  assert shell.returncode == status


def test_a_tpu_pod_is_asked_for_used_and_given_back():
  output = _dry('tpu_pod.sh', f'train {TPU} --spot --project=p')
  commands = _commands(output)
  for command in commands:
    if command[0] == 'gcloud':
      assert {'--zone=us-west4-a', '--project=p'} <= set(command)
  tpus = [x[3:] for x in commands if x[:3] == ['gcloud', 'compute', 'tpus']]
  assert [x[:2] for x in tpus] == [
    ['queued-resources', 'create'],
    ['queued-resources', 'describe'],
    ['tpu-vm', 'ssh'],  # Asks whether a program runs there.
    ['tpu-vm', 'scp'],
    ['tpu-vm', 'ssh'],  # Installs.
    ['tpu-vm', 'ssh'],  # Starts.
    ['tpu-vm', 'ssh'],  # Asks whether it has ended.
    ['queued-resources', 'delete'],
  ]
  assert {
    '--node-id=pod',
    '--accelerator-type=v5litepod-16',
    '--runtime-version=v2-alpha',
    '--spot',
  } <= set(tpus[0])
  assert all('--worker=all' in x for x in tpus[2:6])
  assert "pip install -q -e '.[tpu]'" in tpus[4][-1]
  assert '--force' in tpus[-1]


def test_a_worker_of_a_pod_gets_a_python_that_is_new_enough(tmp_path):
  """The command for its shell; its own Python is 3.10 and has no venv."""
  commands = _commands(_dry('tpu_pod.sh', f'install {TPU}', flags=[]))
  install = commands[-1][-1].removeprefix('--command=')
  _fake(tmp_path / 'bin/python3', 'exit 1')
  _fake(tmp_path / 'bin/curl', f'echo "touch {tmp_path}/installed"')
  _fake(
    tmp_path / '.local/bin/uv',
    f'test -e {tmp_path}/installed || exit 1\n'
    'mkdir -p venv/bin\n'
    'echo \'echo "$PWD $*" >>~/told\' >venv/bin/pip\n'
    'chmod +x venv/bin/pip\n'
    'echo "$*" >~/told',
  )
  (tmp_path / 'setup.py').touch()
  packed = ['tar', '-czf', 'vimonet_jax_run.tar.gz', 'setup.py']
  subprocess.run(packed, cwd=tmp_path, check=True)
  for _ in range(2):
    subprocess.run(
      ['bash', '-c', install],
      cwd=tmp_path,
      env={'PATH': f'{tmp_path}/bin:/usr/bin:/bin', 'HOME': str(tmp_path)},
      check=True,
    )
    asked, told = (tmp_path / 'told').read_text().splitlines()
    version = re.fullmatch(r'venv --python 3\.(\d+) --seed venv', asked)
    assert int(version[1]) >= 11
    assert told == f'{tmp_path}/vimonet_jax_run install -q -e .[tpu]'
    assert (tmp_path / 'vimonet_jax_run/setup.py').exists()


def test_a_worker_of_a_pod_runs_what_was_asked(tmp_path):
  """The command for its shell, with another Python in place of its own."""
  commands = _commands(_dry('tpu_pod.sh', f'run {TPU}'))
  (start,) = [x[-1] for x in commands if 'nohup' in x[-1]]
  _fake(
    tmp_path / 'vimonet_jax_run/venv/bin/python',
    'printf "%s\\n" "$@"\nexit 143',
  )
  script = start.removeprefix('--command=').replace(' &)', ')')
  subprocess.run(['sh', '-c', script], cwd=tmp_path, check=True)
  told = (tmp_path / 'vimonet_jax_run.log').read_text().splitlines()
  assert told == ['-m', 'vimonet_jax.main', '--distributed', *FLAGS]
  status = (tmp_path / 'vimonet_jax_run' / 'status').read_text()
  assert status.strip() == '143'


LOST = 'echo "ERROR: no network" >&2; exit 1'
NONE = 'echo "ERROR: (gcloud) NOT_FOUND: Resource was not found" >&2; exit 1'
WAITS = 'echo WAITING_FOR_RESOURCES'
ACTIVE = 'echo ACTIVE; echo "Updates are available." >&2'


@pytest.mark.parametrize(
  ('describe', 'asked'),
  [
    ([NONE, WAITS, LOST, LOST, WAITS, ACTIVE], 1),
    ([LOST, NONE, LOST, ACTIVE], 1),
    ([LOST, WAITS, ACTIVE], 0),  # As another call has asked for it.
    (['echo DELETING', NONE, ACTIVE], 1),
    ([ACTIVE], 0),
  ],
)
def test_a_pod_is_asked_for_once_and_waited_for(tmp_path, describe, asked):
  found, verbs = _pod(tmp_path, 'create', flags=[], describe=describe)
  assert found.returncode == 0, found.stderr
  assert verbs.count('create') == asked
  assert verbs.count('describe') == len(describe)


@pytest.mark.parametrize(
  ('answers', 'status', 'sentence'),
  [
    ({'describe': [WAITS, LOST]}, 2, 'found the above ten times in a row'),
    ({'describe': [WAITS, NONE]}, 2, 'become ACTIVE, found it deleted'),
    ({'describe': [NONE, 'echo FAILED']}, 2, 'become ACTIVE, found FAILED'),
    ({'describe': [NONE], 'create': ['echo no quota >&2; exit 3']}, 3, 'quota'),
  ],
)
def test_a_pod_that_does_not_come_is_one_sentence(
  tmp_path, answers, status, sentence
):
  found, verbs = _pod(tmp_path, 'create', flags=[], **answers)
  assert found.returncode == status
  assert sentence in found.stderr.splitlines()[-1]
  assert verbs.count('describe') <= 11


GONE = ['echo SUSPENDING', 'echo SUSPENDING', 'echo SUSPENDED']


@pytest.mark.parametrize(
  ('before', 'answers'),
  [
    ([ACTIVE], {'poll': ['echo 134', 'echo 0']}),
    ([ACTIVE], {'poll': ['echo 143', 'echo 0']}),
    ([ACTIVE], {'poll': [LOST, 'echo 0']}),
    # The service is late to say so, and the network away.
    ([ACTIVE, ACTIVE, LOST, LOST], {'poll': [LOST, LOST, 'echo 0']}),
    ([ACTIVE], {'copy': [LOST, '']}),
    ([ACTIVE], {'install': [LOST, '']}),
    ([ACTIVE], {'start': [LOST, '']}),
    ([WAITS], {}),
  ],
)
def test_a_pod_that_is_taken_away_is_asked_for_again(tmp_path, before, answers):
  answers = {'poll': ['echo 0'], **answers}
  found, verbs = _pod(
    tmp_path, 'train', describe=[*before, *GONE, NONE, ACTIVE], **answers
  )
  assert found.returncode == 0, found.stderr
  assert verbs.count('delete') == verbs.count('create') == 1
  assert verbs.index('delete') < verbs.index('create')
  rest = [x for x in verbs[verbs.index('create') :] if x != 'describe']
  assert rest == ['create', 'busy', 'copy', 'install', 'start', 'poll']


@pytest.mark.parametrize(
  ('answers', 'status'),
  [
    ({'poll': ['echo running', 'echo 134']}, 134),
    ({'poll': ['echo 143', 'echo 1']}, 1),
    ({'install': ['exit 4']}, 4),
    ({'copy': ['exit 5']}, 5),
    ({'start': ['exit 6']}, 6),
    ({'describe': [ACTIVE, NONE], 'poll': ['echo 134']}, 2),
  ],
)
def test_a_run_that_fails_on_a_pod_ends_train(tmp_path, answers, status):
  found, verbs = _pod(tmp_path, 'train', **{'describe': [ACTIVE], **answers})
  assert found.returncode == status, found.stderr
  assert not {'create', 'delete'} & set(verbs)


def test_a_pod_that_could_not_be_given_back_is_given_back_later(tmp_path):
  found, verbs = _pod(
    tmp_path,
    'train',
    describe=[ACTIVE, *GONE, *['echo SUSPENDED'] * 3, NONE, ACTIVE],
    delete=[LOST, ''],
    poll=['echo 143', 'echo 0'],
  )
  assert found.returncode == 0, found.stderr
  assert verbs.count('delete') == 2
  assert verbs.count('create') == 1


def test_a_pod_without_its_disk_does_not_run(tmp_path):
  found, verbs = _pod(
    tmp_path,
    'train --mount=MOUNT',
    describe=[ACTIVE],
    mount=['echo no such host >&2; exit 32'],
    poll=['echo 0'],
  )
  assert found.returncode == 32
  assert 'no such host' in found.stderr
  assert 'mount' in verbs
  assert 'start' not in verbs


@pytest.mark.parametrize('action', ['run', 'train'])
def test_a_program_that_runs_on_a_pod_is_waited_for(tmp_path, action):
  """As after a lost connection, for the same command given again."""
  found, verbs = _pod(
    tmp_path,
    action,
    describe=[ACTIVE],
    busy=['echo; echo busy; echo'],
    poll=['echo running', 'echo 0'],
  )
  assert found.returncode == 0, found.stderr
  assert 'A program runs on pod already' in found.stdout
  assert [x for x in verbs if x != 'describe'] == ['busy', 'poll', 'poll']


def test_an_active_pod_gets_what_was_edited(tmp_path):
  found, verbs = _pod(tmp_path, 'train', describe=[ACTIVE], poll=['echo 0'])
  assert found.returncode == 0, found.stderr
  assert verbs == ['describe', 'busy', 'copy', 'install', 'start', 'poll']


@pytest.mark.parametrize(('end', 'status'), [('TERM', 7), ('KILL', 137)])
def test_a_worker_of_a_pod_runs_one_program_at_a_time(tmp_path, end, status):
  """The commands for its shell, with another Python in place of its own."""
  commands = _commands(_dry('tpu_pod.sh', f'train {TPU}'))
  asked = [x[-1].removeprefix('--command=') for x in commands if 'ssh' in x]
  busy, install, start, poll = asked

  def on_worker(command):
    return subprocess.run(
      ['bash', '-c', command],
      cwd=tmp_path,
      capture_output=True,
      text=True,
      timeout=60,
    )

  def says(command):
    return on_worker(command).stdout.strip()

  _fake(
    tmp_path / 'vimonet_jax_run/venv/bin/python',
    f"""exec {sys.executable} -c '
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
with open("../pids", "a") as f: print(os.getppid(), os.getpid(), file=f)
time.sleep(60)'""",
  )
  assert says(busy) == ''
  assert on_worker(start).returncode == 0
  parent, child = map(int, _wait_for(tmp_path / 'pids').split())
  try:
    assert says(busy) == 'busy'
    assert says(poll) == 'running'
    for command in (start, install):
      again = on_worker(command)
      assert again.returncode == 1
      assert again.stderr.startswith('Expected nothing to run here, found a')
    assert len(_wait_for(tmp_path / 'pids').splitlines()) == 1
  finally:
    if end == 'KILL':
      os.kill(parent, signal.SIGKILL)
    os.kill(child, signal.Signals[f'SIG{end}'])
  for _ in range(600):
    if says(poll) != 'running':
      break
    time.sleep(0.1)
  assert says(poll) == str(status)
  assert says(busy) == ''


@pytest.mark.parametrize('worker', ['0', 'all'])
def test_a_pods_log_is_shown(worker):
  options = f'logs --name=pod --zone=z --worker={worker}'
  (command,) = _commands(_dry('tpu_pod.sh', options, flags=[]))
  assert f'--worker={worker}' in command
  assert command[-1] == '--command=tail -n 100 -f vimonet_jax_run.log'


@pytest.mark.parametrize(
  ('options', 'hosts', 'chips'),
  [
    ('--topology=4x4', 4, 4),
    ('--topology=2x2x4', 4, 4),
    ('--topology=1x1', 1, 1),
    ('--topology=2x4 --chips=8', 1, 8),
    ('--topology=16x16 --spot', 64, 4),
  ],
)
def test_a_manifest_has_a_pod_a_host(options, hosts, chips):
  yaml = pytest.importorskip('yaml', reason='needs PyYAML to read the manifest')
  output = _dry('gke.sh', f'{GKE} {options}')
  assert '$' not in output
  found = yaml.safe_load(output)
  assert (found['kind'], found['metadata']['name']) == ('JobSet', 'run')
  (slice_,) = found['spec']['replicatedJobs']
  job = slice_['template']['spec']
  assert (job['completions'], job['parallelism']) == (hosts, hosts)
  assert (slice_['replicas'], job['backoffLimit']) == (1, 0)
  pod = job['template']['spec']
  (container,) = pod['containers']
  assert container['command'] == ['python', '-m', 'vimonet_jax.main']
  assert container['args'] == ['--distributed', *FLAGS]
  assert container['image'] == 'i:1'
  for kind in ('requests', 'limits'):
    assert container['resources'][kind] == {'google.com/tpu': chips}
  selector = {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
    'cloud.google.com/gke-tpu-topology': options.split()[0].split('=')[1],
  }
  if '--spot' in options:
    selector['cloud.google.com/gke-spot'] = 'true'
  assert pod['nodeSelector'] == selector
  (volume,) = pod['volumes']
  assert volume['persistentVolumeClaim'] == {'claimName': 'nfs'}


def _after(jobset, pod_fails) -> str:
  """What the two controllers do after the first failure of a pod.

  `pod_fails` is its exit code, or the condition that its host gave it. Messages
  are those of Kubernetes' pod_failure_policy.go, rules are tried in the order
  and with the default of JobSet's failure_policy.go.
  """
  (slice_,) = jobset['spec']['replicatedJobs']
  job = slice_['template']['spec']
  reason, message = 'BackoffLimitExceeded', 'Job has reached its backoff limit'
  for index, rule in enumerate(job['podFailurePolicy']['rules']):
    assert rule['action'] == 'FailJob'
    if 'onExitCodes' in rule:
      assert rule['onExitCodes']['operator'] == 'In'
      fits = pod_fails in rule['onExitCodes']['values']
      what = f'Container c for pod n/p failed with exit code {pod_fails}'
    else:
      fits = pod_fails in [x['type'] for x in rule['onPodConditions']]
      what = f'Pod n/p has condition {pod_fails}'
    if fits:
      reason = 'PodFailurePolicy'
      message = f'{what} matching FailJob rule at index {index}'
      break
  for rule in jobset['spec']['failurePolicy']['rules']:
    patterns = rule.get('onJobFailureMessagePatterns', [''])
    if reason in rule['onJobFailureReasons'] and any(
      re.search(pattern, message) for pattern in patterns
    ):
      return rule['action']
  return 'RestartJobSet'


@pytest.mark.parametrize(
  ('pod_fails', 'action'),
  [
    ('DisruptionTarget', 'RestartJobSetAndIgnoreMaxRestarts'),
    (143, 'RestartJobSetAndIgnoreMaxRestarts'),
    (1, 'FailJobSet'),
    (127, 'FailJobSet'),
    (134, 'RestartJobSet'),
    (137, 'RestartJobSet'),
  ],
)
def test_a_jobset_goes_on_after_it_was_stopped(pod_fails, action):
  yaml = pytest.importorskip('yaml', reason='needs PyYAML to read the manifest')
  jobset = yaml.safe_load(_dry('gke.sh', f'{GKE} --topology=4x4'))
  assert _after(jobset, pod_fails) == action
  assert jobset['spec']['failurePolicy']['maxRestarts'] > 0


def test_all_pods_of_a_jobset_are_in_one_slice_and_are_shown():
  output = _dry('gke.sh', f'{GKE} --topology=16x16')
  (placed,) = [x for x in output.splitlines() if '/exclusive-topology:' in x]
  assert placed.split() == [
    'alpha.jobset.sigs.k8s.io/exclusive-topology:',
    'cloud.google.com/gke-nodepool',
  ]
  help_ = _run('gke.sh', '--help', flags=[]).stdout
  assert int(re.search(r'--max-log-requests=(\d+)', help_)[1]) >= 64


@pytest.mark.parametrize(
  ('script', 'options', 'sentence'),
  [
    *(
      (script, f'{enough} --nodse=2', 'before --, found --nodse=2; see --help.')
      for script, enough in ENOUGH.items()
    ),
    ('gpu.sh', '--tries=x', "--tries to be a number from 1, found 'x'."),
    (
      'slurm.sh',
      '--nodes=2',
      "--gpus-per-node to be a number from 1, found ''.",
    ),
    ('tpu_pod.sh', '', "logs or delete first, found '--'; see --help."),
    ('tpu_pod.sh', 'run --zone=z', '--name and --zone, found one missing;'),
    ('tpu_pod.sh', 'train --name=n --zone=z', '--type and --runtime to train'),
    ('gke.sh', f'{GKE} --topology=4', "as 4x4 or 2x2x4, found '4'."),
    ('gke.sh', f'{GKE} --topology=4x4 --chips=3', 'the 16 chips of 4x4, found'),
    ('gke.sh', '--topology=4x4', 'Expected --name, found none; see --help.'),
  ],
)
def test_a_wrong_option_is_one_sentence(script, options, sentence):
  found = _run(script, options)
  assert found.returncode == 2
  assert not found.stdout
  (line,) = found.stderr.splitlines()
  assert line.startswith('Expected ')
  assert sentence in line


@pytest.mark.parametrize('script', ENOUGH)
def test_flags_of_the_program_are_asked_for(script):
  found = _run(script, ENOUGH[script], flags=[])
  assert found.returncode == 2
  assert 'Expected flags of vimonet_jax.main after --' in found.stderr


@pytest.mark.parametrize('script', ENOUGH)
def test_help_names_every_option(script):
  found = _run(script, '--help', flags=[])
  assert found.returncode == 0
  text = (LAUNCH / script).read_text()
  options = set(re.findall(r'^ +(?:.* \| )?(--[a-z-]+)=?\*?\)', text, re.M))
  assert {'--dry-run', '--help'} < options
  for name in options - {'--help'}:
    assert name in found.stdout


def test_shellcheck_has_nothing_to_say(tmp_path):
  # Beside this Python, which need not be on the PATH.
  here = sysconfig.get_path('scripts')
  tool = shutil.which('shellcheck', path=here) or shutil.which('shellcheck')
  if tool is None:
    pytest.skip("needs shellcheck: pip install -e '.[test]'")
  (tmp_path / 'job').write_text(_dry('slurm.sh').split('<<JOB\n')[1][:-4])
  found = subprocess.run(
    [tool, *sorted(LAUNCH.glob('*.sh')), tmp_path / 'job'],
    capture_output=True,
    text=True,
  )
  assert found.returncode == 0, found.stdout
