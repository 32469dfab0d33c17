"""Weights go to transformers, peft and torch, and come back as they were."""

import dataclasses
import functools
import json
import os
import shutil
import typing

import jax.numpy as jnp
import numpy as np
import presets
import pytest
import small

from vimonet_jax import (
  base,
  claim,
  exporting,
  fingerprint,
  importing,
  outcome,
  pipeline,
  sharding,
  weight_files,
  weight_writer,
)
from vimonet_jax import corpus as corpora
from vimonet_jax.convert import mapping
from vimonet_jax.data import records, text, tokenizer
from vimonet_jax.infer import engine, model_folder
from vimonet_jax.models import lora, vimonet
from vimonet_jax.motion import features
from vimonet_jax.synthetic import world
from vimonet_jax.train import stages

torch = pytest.importorskip('torch', reason='needs torch to write its files')
pytest.importorskip('safetensors', reason='needs safetensors to write them')

PART_OF = {
  'llm': ('llama', 'llm'),
  'adapter': ('peft', 'adapter'),
  'video_translator': ('projector', 'projector/mm_projector.bin'),
  'motion_translator': ('motion-projector', 'projector/motion_projector.bin'),
  'motion': ('vqvae', 'vqvae/net_last.pth'),
}


class Run(typing.NamedTuple):
  """A run that is finished, as far as anybody can see."""

  config: typing.Any
  workdir: str
  weights: dict[str, np.ndarray]
  model: vimonet.Config


def _config(**changes):
  return presets.load(
    'tiny',
    'smoke',
    model__llm__width=32,
    model__llm__head_dim=16,
    model__llm__mlp_width=48,
    model__video__width=16,
    model__video__heads=2,
    model__video__mlp_width=16,
    model__motion__width=8,
    model__motion__code_dim=8,
    model__motion__num_codes=6,
    **changes,
  )


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Run:
  config = _config()
  workdir = str(tmp_path_factory.mktemp('run') / 'work')
  claim.write(config, workdir)
  drawn = world.World()
  lines = text.texts(drawn.text_record('train', 0), text.TEMPLATES['short'])
  words = tokenizer.Tokenizer(tokenizer.train_tokenizer(lines, 400))
  words.save(os.path.join(workdir, 'tokenizer.model'))
  motions = [drawn.make_record('train', i).motion for i in range(3)]
  features.Statistics.of(motions, config.data.root_gain).save(
    os.path.join(workdir, 'statistics.npz')
  )
  model = corpora.model(
    config, vocab_size=words.vocab_size, adapters=config.instruct.lora
  )
  weights = {}
  for seed, name in enumerate(config.stage_names):
    stage = stages.make(name, config[name], model)
    arrays, state = stage.abstract()
    # Each stage changes some of what was there before.
    made = small.params(arrays, 0.2, seed=seed)
    made |= {
      path: np.ones((), bool)
      if x.dtype == bool
      else np.random.default_rng(seed).random(x.shape, np.float32)
      for path, x in state.items()
    }
    weight_writer.save(os.path.join(workdir, name, 'weights'), made)
    weights |= made
  return Run(config, workdir, weights, model)


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory) -> str:
  output = str(tmp_path_factory.mktemp('exported'))
  assert exporting.export(run.config, run.workdir, output=output) == 0
  return output


@pytest.fixture(scope='module')
def converted(run, exported, tmp_path_factory) -> dict[str, str]:
  """Part -> the folder that `convert` made of what `export` wrote."""
  folder = tmp_path_factory.mktemp('converted')
  for part, (format, source) in PART_OF.items():
    source = 'base' if part == 'llm' else source
    importing.convert(
      run.config,
      source=os.path.join(exported, source),
      format=format,
      output=str(folder / part),
      statistics=os.path.join(exported, 'vqvae') if part == 'motion' else None,
    )
  return {part: str(folder / part) for part in PART_OF}


def test_what_comes_back_is_what_went_out(run, converted):
  for folder in converted.values():
    found = weight_files.load(os.path.join(folder, 'weights'))
    for path, x in found.items():
      if path in ('motion/quantizer/sum', 'motion/quantizer/count'):
        continue  # No file of T2M-GPT's has them.
      assert x.dtype == run.weights[path].dtype, path
      np.testing.assert_array_equal(x, run.weights[path], err_msg=path)
  old = features.Statistics.load(os.path.join(run.workdir, 'statistics.npz'))
  new = features.Statistics.load(
    os.path.join(converted['motion'], 'statistics.npz')
  )
  np.testing.assert_array_equal(old.std, new.std)
  np.testing.assert_array_equal(old.mean, new.mean)


def test_nothing_of_a_decoder_is_forgotten(run, converted):
  found = set()
  for folder in converted.values():
    found |= set(weight_files.Lazy(os.path.join(folder, 'weights')))
  # The tower goes nowhere: what reads it in torch wants all of its blocks.
  lost = {path for path in run.weights if not path.startswith('video/')}
  assert lost == found


def _logits(model: vimonet.Config, weights, ids) -> np.ndarray:
  tokens = jnp.asarray(ids)
  batch = {
    'tokens': tokens,
    'positions': jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape),
    'segment_ids': jnp.ones_like(tokens),
    'media_index': jnp.full_like(tokens, -1),
  }
  from flax import traverse_util

  variables = {'params': traverse_util.unflatten_dict(weights, sep='/')}
  module = vimonet.Vimonet(model)
  h = module.apply(variables, batch)
  return np.asarray(module.apply(variables, h, method='logits'))


@pytest.fixture(scope='module')
def ids(run) -> np.ndarray:
  rng = np.random.default_rng(0)
  return rng.integers(3, run.model.llm.vocab_size, (2, 17))


def test_transformers_and_peft_load_it_and_answer_the_same(run, exported, ids):
  transformers = pytest.importorskip('transformers', reason='loads the export')
  peft = pytest.importorskip('peft', reason='loads the exported adapter')
  wanted = _logits(run.model, run.weights, ids)
  spread = wanted.std()

  def logits(module) -> np.ndarray:
    with torch.no_grad():
      return module.eval()(torch.from_numpy(ids)).logits.numpy()

  def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
      os.path.join(exported, folder), dtype=torch.float32
    )

  merged = logits(load('llm'))
  assert np.abs(merged - wanted).max() < 1e-4 * spread
  plain = load('base')
  assert np.abs(logits(plain) - wanted).max() > 0.1 * spread
  adapted = peft.PeftModel.from_pretrained(
    plain, os.path.join(exported, 'adapter')
  )
  assert np.abs(logits(adapted) - wanted).max() < 1e-4 * spread


def test_the_tokenizer_that_is_exported_writes_the_same_ids(run, exported):
  transformers = pytest.importorskip('transformers', reason='loads the export')
  ours = tokenizer.Tokenizer.load(os.path.join(run.workdir, 'tokenizer.model'))
  theirs = transformers.AutoTokenizer.from_pretrained(
    os.path.join(exported, 'llm')
  )
  line = 'He walks to the left, then waves.'
  assert theirs(line)['input_ids'] == [1, *ours.encode(line)]
  padded = theirs([line, 'He'], padding=True)['input_ids']
  assert padded[1][-1] == theirs.pad_token_id == 0
  found = transformers.GenerationConfig.from_pretrained(
    os.path.join(exported, 'llm')
  )
  assert (found.eos_token_id, found.pad_token_id) == (2, 0)


def test_an_assembled_model_is_the_one_that_was_trained(
  run, converted, tmp_path, capsys
):
  named = {part: folder for part, folder in converted.items()}
  config = _config()
  config.base = named
  workdir = str(tmp_path / 'work')
  assert outcome.assemble(config, workdir) == 0
  # There is a translator for the tower that has none.
  told = capsys.readouterr().out
  assert told.endswith('\nWithout config.base.video it reads no video.\n')
  assert 'reads no motion' not in told
  found = weight_files.load(os.path.join(workdir, 'model', 'weights'))
  bundle = model_folder.read(os.path.join(workdir, 'model'))
  assert bundle.model.llm.lora.rank == 0
  rng = np.random.default_rng(0)
  ids = rng.integers(3, run.model.llm.vocab_size, (2, 9))
  plain = dataclasses.replace(
    run.model,
    llm=dataclasses.replace(run.model.llm, lora=bundle.model.llm.lora),
  )
  np.testing.assert_allclose(
    _logits(plain, found, ids), _logits(run.model, run.weights, ids), atol=2e-4
  )
  # It answers; what it has no weights for it cannot be asked.
  record = world.World().make_record('test', 0)
  turns = (records.Turn('What is done?', ''),)
  asked = dataclasses.replace(record, frames=None, turns=turns)
  asking = engine.Engine.load(os.path.join(workdir, 'model'))
  assert len(asking.answer([asked], max_new_tokens=3)) == 1
  with pytest.raises(ValueError, match='video'):
    asking.check(dataclasses.replace(record, turns=turns))


@pytest.mark.parametrize('quantize', ['', 'int8'])
def test_a_stage_is_trained_on_what_was_converted(
  run, converted, tmp_path, quantize
):
  config = _config(
    stage_names=('align',),
    data__train=4,
    data__val=2,
    data__test=2,
    data__processes=1,
    align__steps=1,
    align__frozen_dtype='',
    align__quantize=quantize,
    model__llm__dtype='bfloat16',
  )
  for name in set(config.align.mixes) - {'motion'}:
    del config.align.mixes[name]
  config.align.mixes.motion.rows = 8  # One for each pretend device.
  config.base = {part: converted[part] for part in ('llm', 'motion')}
  workdir = str(tmp_path / 'work')
  corpus = corpora.prepare(config, workdir)
  for file in ('tokenizer.model', 'statistics.npz'):
    kept = (tmp_path / 'work' / file).read_bytes()
    with open(os.path.join(run.workdir, file), 'rb') as f:
      assert kept == f.read()
  pipeline.train_stage(config, workdir, 'align', corpus)
  pipeline.export(config, workdir)
  found = weight_files.load(os.path.join(workdir, 'model', 'weights'))
  for path, x in found.items():
    is_trained = path.startswith('translators/')
    assert is_trained or path in run.weights
    if not is_trained:
      # As they were stored, whatever the network computes in.
      assert x.dtype == run.weights[path].dtype
      np.testing.assert_array_equal(x, run.weights[path], err_msg=path)
  # With other weights in the same place the run does not go on.
  wrong = dict(config.base) | {'llm': str(tmp_path / 'other')}
  shutil.copytree(converted['llm'], wrong['llm'])
  other = weight_files.load(os.path.join(wrong['llm'], 'weights'))
  other['llm/norm/scale'] = other['llm/norm/scale'] + 1
  weight_writer.save(os.path.join(wrong['llm'], 'weights'), other)
  config.base = wrong
  shutil.rmtree(os.path.join(workdir, 'model'))
  with pytest.raises(ValueError, match='frozen weights that it began with'):
    pipeline.export(config, workdir)


def test_a_run_begins_on_what_was_converted(run, converted):
  """The paper's stages find what they keep frozen there, and miss the rest."""
  config = _config(stage_names=('align', 'instruct'))
  for stage in ('align', 'instruct'):
    for name in set(config[stage].mixes) - {'motion'}:
      del config[stage].mixes[name]
    config[stage].mixes.motion.rows = 8  # One for each pretend device.
  mesh = sharding.make_mesh(fsdp=-1)

  def check(*parts):
    config.base = {part: converted[part] for part in parts}
    names = config.stage_names
    paths = {x: pipeline._check_stage(config, x, mesh) for x in names}
    pipeline._check_frozen(config, paths)

  check('llm', 'motion')
  with pytest.raises(ValueError, match='stage align .* none of motion; name'):
    check('llm')
  with pytest.raises(ValueError, match='stage align .* none of llm; name'):
    check('motion')
  # Translators that nobody trained are as random as a decoder.
  config.stage_names = ('instruct',)
  config.instruct.trainable = ('llm/.*/lora_.*',)
  config.instruct.learning_rates = (('.*', 1e-4),)
  check('llm', 'motion', 'motion_translator')
  with pytest.raises(ValueError, match='none of motion_translator; name'):
    check('llm', 'motion')
  # An adapter goes on, or is kept as it is.
  check('llm', 'motion', 'motion_translator', 'adapter')
  config.instruct.trainable = ('translators/.*',)
  check('llm', 'motion', 'adapter')
  with pytest.raises(ValueError, match='none of adapter; name'):
    check('llm', 'motion')


def test_an_adapter_of_another_shape_cannot_be_trained_on(run, converted):
  config = _config()
  config.base = {'llm': converted['llm'], 'adapter': converted['adapter']}
  other = dataclasses.replace(run.model.llm.lora, rank=3)
  model = dataclasses.replace(
    run.model, llm=dataclasses.replace(run.model.llm, lora=other)
  )
  base.check(config, run.model)
  fields = run.model.llm.lora
  with pytest.raises(
    ValueError,
    match=rf'--config\.instruct\.lora\.rank={fields.rank} \(is 3\); .*assemble',
  ):
    base.check(config, model, stage='instruct')
  # The same numbers with another alpha are another adapter.
  other = dataclasses.replace(fields, alpha=2 * fields.alpha, dropout=0.5)
  louder = dataclasses.replace(
    run.model, llm=dataclasses.replace(run.model.llm, lora=other)
  )
  with pytest.raises(
    ValueError,
    match=rf'found other settings: --config\.instruct\.lora\.alpha='
    rf'{fields.alpha} \(is {other.alpha}\); train',
  ):
    base.check(config, louder, stage='instruct')
  other = dataclasses.replace(fields, targets=('o',))
  fewer = dataclasses.replace(
    run.model, llm=dataclasses.replace(run.model.llm, lora=other)
  )
  # As a shell takes it.
  with pytest.raises(ValueError, match=r"targets='\(.*\)' \(is \('o',\)\);"):
    base.check(config, fewer, stage='instruct')
  reordered = dataclasses.replace(fields, targets=fields.targets[::-1])
  assert reordered.is_like(fields)
  # The paper's first stage has none.
  llm = dataclasses.replace(run.model.llm, lora=lora.LoraConfig())
  model = dataclasses.replace(run.model, llm=llm)
  with pytest.raises(
    ValueError, match=r"align .* it has none; .*stage_names=\"\('instruct'"
  ):
    base.check(config, model, stage='align')


def test_sizes_that_differ_are_named(run, converted):
  config = _config()
  config.base = {'llm': converted['llm']}
  wide = dataclasses.replace(run.model.llm, mlp_width=96)
  with pytest.raises(
    ValueError, match=r'--config\.model\.llm\.mlp_width=48 \(is 96\); use'
  ):
    base.check(config, dataclasses.replace(run.model, llm=wide))
  for part, name in (
    ('video_translator', 'model.video.width'),
    ('motion_translator', 'model.motion.code_dim'),
  ):
    assert base._override(part, 'features') == f'--config.{name}'
    assert base._override(part, 'width') == '--config.model.llm.width'
  config.base = {'motion_translator': converted['motion_translator']}
  other = dataclasses.replace(run.model.motion, code_dim=9)
  with pytest.raises(
    ValueError, match=r'--config\.model\.motion\.code_dim=8 \(is 9\); use'
  ):
    base.check(config, dataclasses.replace(run.model, motion=other))


@pytest.mark.parametrize(
  ('named', 'sentence'),
  [
    ({'video': 'llm'}, r'found those for config\.base\.llm'),
    ({'llm': 'nowhere'}, 'no such folder; run --task=convert'),
    ({'legs': 'llm'}, "found 'legs'"),
  ],
)
def test_a_folder_that_is_none_of_ours_is_refused(converted, named, sentence):
  config = _config()
  config.base = {part: converted.get(x, x) for part, x in named.items()}
  with pytest.raises(ValueError, match=sentence):
    base.folders(config)


def test_a_tokenizer_that_was_not_copied_is_missed(converted, tmp_path):
  folder = shutil.copytree(converted['llm'], tmp_path / 'llm')
  os.remove(folder / 'tokenizer.model')
  config = _config()
  config.base = {'llm': str(folder)}
  with pytest.raises(ValueError, match=r'Expected tokenizer\.model beside'):
    base.file(config, 'llm', 'tokenizer.model')


def _convert(run, **changes):
  return importing.convert(
    run.config,
    **{
      'source': None,
      'format': None,
      'output': None,
      'statistics': None,
      **changes,
    },
  )


def test_a_wrong_command_says_what_is_missing(run, exported, tmp_path):
  output = str(tmp_path / 'out')
  with pytest.raises(ValueError, match='--source=CHECKPOINT'):
    _convert(run, output=output)
  source = os.path.join(exported, 'adapter')
  with pytest.raises(ValueError, match='look like peft'):
    _convert(run, source=source, output=output)
  with pytest.raises(
    ValueError,
    match=r'--format=llama in .*adapter_model.safetensors, found names of peft,'
    ' such as base_model.*; choose --format=peft, or',
  ):
    _convert(run, source=source, output=output, format='llama')
  assert not os.path.exists(output)


def test_both_projectors_of_an_export_are_found_in_their_folder(
  run, exported, tmp_path, capsys
):
  source = os.path.join(exported, 'projector')
  for format in ('projector', 'motion-projector'):
    output = str(tmp_path / format)
    _convert(run, source=source, format=format, output=output)
    file = {'projector': 'mm_projector.bin'}.get(format, 'motion_projector.bin')
    told = capsys.readouterr().out
    assert f'Reads {os.path.join(source, file)}.' in told


def test_another_edition_of_video_llava_is_told_apart(run, tmp_path):
  path = tmp_path / 'model.bin'
  torch.save({'multi_modal_projector.linear_1.weight': torch.ones(2, 2)}, path)
  for format in ('projector', 'languagebind', None):
    with pytest.raises(ValueError, match='a LLaVA as transformers.*fetch'):
      _convert(run, source=str(path), format=format, output=str(tmp_path / 'o'))


def test_a_vqvae_comes_with_the_statistics_that_it_was_trained_with(
  run, exported, tmp_path
):
  """Section 8.8 of the reference: with others it sees another motion."""
  command = {
    'source': os.path.join(exported, 'vqvae', 'net_last.pth'),
    'format': 'vqvae',
    'output': str(tmp_path / 'out'),
  }
  with pytest.raises(ValueError, match='Expected --statistics=FOLDER'):
    _convert(run, **command)
  with pytest.raises(ValueError, match=r'no mean\.npy; correct --statistics'):
    _convert(run, **command, statistics=str(tmp_path))
  assert not os.path.exists(command['output'])


def test_the_statistics_of_another_encoder_are_refused(
  run, exported, shared_data, tmp_path
):
  config = _config(data__root_gain=25.0)
  command = {
    'source': os.path.join(exported, 'vqvae', 'net_last.pth'),
    'format': 'vqvae',
    'output': str(tmp_path / 'out'),
  }
  # HumanML3D's own pair, which everybody has at hand.
  with pytest.raises(ValueError, match=r'25 times as loud.*found 1\.0 times'):
    importing.convert(
      config, **command, statistics=str(shared_data / 'humanml3d')
    )
  meta = shared_data / 'motiongpt' / 'meta'
  importing.convert(config, **command, statistics=str(meta))
  found = features.Statistics.load(str(tmp_path / 'out' / 'statistics.npz'))
  std = np.load(meta / 'std.npy').astype(np.float32)
  np.testing.assert_array_equal(found.std, std)


def test_a_tokenizer_of_another_decoder_is_refused(run, exported, tmp_path):
  folder = shutil.copytree(os.path.join(exported, 'llm'), tmp_path / 'llm')
  lines = ['a b c d e f g h'] * 9
  proto = tokenizer.train_tokenizer(lines, 300)
  tokenizer.Tokenizer(proto).save(str(folder / 'tokenizer.model'))
  with pytest.raises(ValueError, match='expected a tokenizer of'):
    _convert(
      run, source=str(folder), format='llama', output=str(tmp_path / 'out')
    )


def test_weights_are_rounded_to_what_the_network_computes_in(
  run, exported, tmp_path
):
  config = _config(model__llm__dtype='bfloat16')
  output = str(tmp_path / 'out')
  importing.convert(
    config,
    source=os.path.join(exported, 'base'),
    format='llama',
    output=output,
    statistics=None,
  )
  found = weight_files.load(os.path.join(output, 'weights'))
  for path, x in found.items():
    assert x.dtype == jnp.bfloat16
    wanted = run.weights[path].astype(jnp.bfloat16)
    np.testing.assert_array_equal(x, wanted, err_msg=path)
  manifest = json.loads((tmp_path / 'out' / 'weights.json').read_text())
  assert manifest['format'] == 'llama'
  assert manifest['sizes']['norm_eps'] == 1e-5


def test_what_no_file_says_is_told(run, exported, tmp_path, capsys):
  _convert(
    run,
    source=os.path.join(exported, 'vqvae', 'net_last.pth'),
    format='vqvae',
    output=str(tmp_path / 'vqvae'),
    statistics=os.path.join(exported, 'vqvae'),
  )
  assert 'No file has its dilations: 9, 3, 1' in capsys.readouterr().out
  folder = shutil.copytree(os.path.join(exported, 'adapter'), tmp_path / 'a')
  path = folder / 'adapter_config.json'
  fields = json.loads(path.read_text())
  fields['base_model_name_or_path'] = 'lmsys/vicuna-7b-v1.5'
  path.write_text(json.dumps(fields))
  _convert(
    run, source=str(folder), format='peft', output=str(tmp_path / 'adapter')
  )
  told = capsys.readouterr().out
  assert 'It was trained on lmsys/vicuna-7b-v1.5.' in told


def test_a_folder_that_is_converted_anew_is_none_until_it_is_done(
  run, exported, converted, tmp_path, monkeypatch
):
  """New weights beside the statistics of old ones would be told by nobody."""
  folder = shutil.copytree(converted['motion'], tmp_path / 'motion')
  command = {
    'source': os.path.join(exported, 'vqvae', 'net_last.pth'),
    'format': 'vqvae',
    'output': str(folder),
    'statistics': os.path.join(exported, 'vqvae'),
  }

  def stopped(self, path):
    raise KeyboardInterrupt

  config = _config()
  config.base = {'motion': str(folder)}
  assert base.folders(config)
  with monkeypatch.context() as patch:
    patch.setattr(features.Statistics, 'save', stopped)
    with pytest.raises(KeyboardInterrupt):
      _convert(run, **command)
  with pytest.raises(ValueError, match=r'no weights\.json in it'):
    base.folders(config)
  _convert(run, **command)
  assert base.folders(config)


def test_a_folder_keeps_its_weights_until_all_of_the_new_ones_are_read(
  run, exported, converted, tmp_path, monkeypatch
):
  folder = shutil.copytree(converted['llm'], tmp_path / 'llm')
  before = fingerprint.of(
    weight_files.load(str(folder / 'weights'))
  )
  command = {
    'source': os.path.join(exported, 'llm'),
    'format': 'llama',
    'output': str(folder),
  }
  pieces_of = mapping.to_ours

  def some(*args, **options):
    yield next(pieces_of(*args, **options))
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(mapping, 'to_ours', some)
    with pytest.raises(KeyboardInterrupt):
      _convert(run, **command)
  assert base.folders(_with({'llm': str(folder)}))
  assert (folder / 'tokenizer.model').exists()
  after = fingerprint.of(
    weight_files.load(str(folder / 'weights'))
  )
  assert after == before
  _convert(run, **command)
  assert sorted(os.listdir(folder)) == [
    'tokenizer.model',
    'weights',
    'weights.json',
  ]


def test_the_folder_of_another_part_is_left_alone(
  run, exported, converted, tmp_path
):
  folder = shutil.copytree(converted['llm'], tmp_path / 'llm')
  with pytest.raises(ValueError, match=r'weights for config\.base\.llm'):
    _convert(
      run,
      source=os.path.join(exported, 'adapter'),
      format='peft',
      output=str(folder),
    )
  assert base.folders(_with({'llm': str(folder)}))


def _with(named):
  config = _config()
  config.base = named
  return config


def test_a_run_and_an_assembled_model_do_not_share_a_folder(
  run, converted, tmp_path
):
  named = {'llm': converted['llm']}
  with pytest.raises(ValueError, match='Expected a work folder without a run'):
    outcome.assemble(_with(named), run.workdir)
  workdir = str(tmp_path / 'work')
  outcome.assemble(_with(named), workdir)
  with pytest.raises(ValueError, match='--task=assemble made'):
    pipeline.run(_with(named), workdir)


def test_what_was_assembled_goes_back_as_well(
  run, converted, tmp_path, ids, monkeypatch
):
  """From the folders that it was assembled of, named again or not."""
  transformers = pytest.importorskip('transformers', reason='loads the export')
  workdir, output = str(tmp_path / 'work'), str(tmp_path / 'output')
  # As most people name them.
  monkeypatch.chdir(os.path.dirname(converted['llm']))
  named = {p: os.path.basename(x) for p, x in converted.items()}
  del named['motion']
  outcome.assemble(_with(named), workdir)
  monkeypatch.chdir(tmp_path)
  assert exporting.export(_config(), workdir, output=output) == 0
  assert sorted(os.listdir(output)) == ['adapter', 'llm', 'projector']
  shutil.rmtree(output)
  again = {p: x for p, x in converted.items() if p != 'motion'}
  (tmp_path / 'linked').symlink_to(os.path.dirname(converted['llm']))
  again['llm'] = str(tmp_path / 'linked' / os.path.basename(again['llm']))
  assert exporting.export(_with(again), workdir, output=output) == 0
  model = transformers.AutoModelForCausalLM.from_pretrained(
    os.path.join(output, 'llm'), dtype=torch.float32
  )
  with torch.no_grad():
    found = model.eval()(torch.from_numpy(ids)).logits.numpy()
  wanted = _logits(run.model, run.weights, ids)
  assert np.abs(found - wanted).max() < 1e-4 * wanted.std()
  # The adapter names the decoder that the folder was converted from.
  fields = json.loads(
    (tmp_path / 'output' / 'adapter' / 'adapter_config.json').read_text()
  )
  named = fields['base_model_name_or_path']
  assert transformers.AutoConfig.from_pretrained(named).model_type == 'llama'
  # Another model is not exported in its place.
  other = _with({p: converted[p] for p in ('llm', 'video_translator')})
  with pytest.raises(ValueError, match='was assembled.*another --workdir'):
    exporting.export(other, workdir, output=output)


def test_an_adapter_belongs_to_what_it_was_trained_on(run, converted):
  config = _with({'llm': converted['llm']})
  named = outcome._decoder(config, weight_files.Lazy(base.weights(config)))
  assert named == base.manifest(config, 'llm').source
  # Not to the file, once a stage has trained the decoder itself.
  made = outcome.weights(config, run.workdir, ('motion',))
  assert outcome._decoder(config, weight_files.Lazy(made)) == named
  made = outcome.weights(config, run.workdir, ('motion', 'language'))
  assert outcome._decoder(config, weight_files.Lazy(made)) is None


def test_a_folder_with_files_of_others_is_left_alone(exported):
  source = os.path.join(exported, 'llm')
  before = sorted(os.listdir(source))
  with pytest.raises(ValueError, match='new folder.*config.json in it; choose'):
    importing.convert(
      _config(), source=source, format='llama', output=source, statistics=None
    )
  assert sorted(os.listdir(source)) == before


@pytest.mark.parametrize('words', ['{', '{"part": "llm"}', '[]'])
def test_a_damaged_manifest_says_so(converted, tmp_path, words):
  folder = tmp_path / 'llm'
  shutil.copytree(converted['llm'], folder)
  (folder / 'weights.json').write_text(words)
  with pytest.raises(ValueError, match=r'weights\.json.*convert the weights'):
    base.folders(_with({'llm': str(folder)}))


def test_an_export_without_all_weights_says_what_is_missing(run, tmp_path):
  workdir = shutil.copytree(run.workdir, tmp_path / 'work')
  shutil.rmtree(workdir / 'language')
  shutil.rmtree(workdir / 'motion')
  with pytest.raises((ValueError, FileNotFoundError), match='Expected'):
    exporting.export(run.config, str(workdir), output=str(tmp_path / 'out'))
  assert not (tmp_path / 'out').exists()


def test_the_files_of_a_run_are_not_replaced_by_those_of_another_base(
  run, converted, tmp_path
):
  workdir = tmp_path / 'work'
  workdir.mkdir()
  other = features.Statistics.load(os.path.join(run.workdir, 'statistics.npz'))
  other = features.Statistics(other.mean + 3, other.std)
  other.save(str(workdir / 'statistics.npz'))
  with pytest.raises(ValueError, match='begun with other weights'):
    corpora._keep(
      os.path.join(converted['motion'], 'statistics.npz'),
      str(workdir / 'statistics.npz'),
    )


def test_the_scale_of_motionllm_is_its_own(run, tmp_path, capsys):
  """A wrong alpha has no shape of its own: rank 64 and 16 are facts."""
  width, heads = run.model.llm.width, run.model.llm.heads
  rows = heads * run.model.llm.head_dim
  tensors = {}
  for i in range(run.model.llm.layers):
    layer = f'transformer.h.{i}.attn.attn.'
    tensors[f'{layer}lora_A'] = torch.randn(8, width)
    tensors[f'{layer}lora_B'] = torch.randn(2 * rows, 4)
  torch.save(tensors, tmp_path / 'lora.pth')
  convert = functools.partial(
    _convert,
    run._replace(config=_config(instruct__lora__alpha=99.0)),
    source=str(tmp_path / 'lora.pth'),
  )
  convert(format='motionllm-lora', output=str(tmp_path / 'out'))
  assert 'alpha / rank is 16 / 64' in capsys.readouterr().out
  adapter = base.adapter(_with({'adapter': str(tmp_path / 'out')}))
  assert (adapter.rank, adapter.scale) == (8, 0.25)
  assert adapter.targets == ('q', 'k', 'v')
  # As lit-gpt's it would have another; the names are the same.
  convert(format='litgpt-lora', output=str(tmp_path / 'other'))
  told = capsys.readouterr().out
  assert 'alpha 99 is --config.instruct.lora.alpha' in told
  assert '--format=motionllm-lora' in told


def test_a_projector_that_reads_class_tokens_is_told_apart(run, exported):
  folder = os.path.join(exported, 'projector')
  path = os.path.join(folder, 'config.json')
  with open(path, 'w') as f:
    json.dump({'mm_projector_type': 'mlp2x_gelu'}, f)
  with pytest.raises(ValueError, match=r'keep_class_token=True \(is False\)'):
    _convert(
      run,
      source=os.path.join(folder, 'mm_projector.bin'),
      format='projector',
      output=os.path.join(folder, 'out'),
    )
  # MotionLLM's lies beside the settings of whatever it was trained with.
  with open(path, 'w') as f:
    json.dump({'model_type': 'llama', 'hidden_size': 4096}, f)
  _convert(
    run,
    source=os.path.join(folder, 'mm_projector.bin'),
    format='projector',
    output=os.path.join(folder, 'out'),
  )
  shutil.rmtree(os.path.join(folder, 'out'))
  os.remove(path)
  one = base.sizes(run.model, 'video_translator')
  video = dataclasses.replace(run.model.video, keep_class_token=True)
  other = dataclasses.replace(run.model, video=video)
  assert base.sizes(other, 'video_translator') != one
  assert base.sizes(other, 'video') == base.sizes(run.model, 'video')
