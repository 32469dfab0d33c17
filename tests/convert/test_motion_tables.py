"""The motion VQ-VAE's table: the same answers, strictly read.

"Shared" is the original implementation on random weights, in ../shared.
"""

import dataclasses
import functools
import json

import encoders
import jax
import numpy as np
import originals
import pytest

from vimonet_jax.convert import encoder_tables, files, mapping
from vimonet_jax.models import motion_vqvae

MOTION = motion_vqvae.Config(width=12, code_dim=8, num_codes=12, depth=3)


@pytest.fixture(scope='module')
def torch():
  return pytest.importorskip('torch', reason='needs torch')


@pytest.fixture(scope='module')
def parity(torch, shared_data):
  return shared_data / 'parity'


def test_the_vqvae_of_shared_gives_its_features_codes_and_motion(parity):
  sizes = json.loads((parity / 'config.json').read_text())['vqvae']
  config = motion_vqvae.Config(
    sizes['width'],
    sizes['code_dim'],
    sizes['nb_code'],
    sizes['depth'],
    down=sizes['down_t'],
  )
  flat = originals.read(
    encoder_tables.vqvae(config), files.open_checkpoint(parity / 'vqvae.pth')
  )
  codebook = flat['motion/quantizer/codebook']
  encoder = motion_vqvae.Encoder(config)
  decoder = motion_vqvae.Decoder(config)
  io = np.load(parity / 'vqvae_io.npz')
  lengths = [int(name[7:]) for name in io if name.startswith('motion_')]
  assert sorted(lengths) == [40, 41, 42, 43, 100, 196, 199]
  for length in lengths:
    motion = io[f'motion_{length}']
    (latents,) = encoders.apply(encoder, flat, 'motion/encoder', motion)
    encoders.near(latents, io[f'encoder_{length}'], 1e-5)
    codes = np.asarray(motion_vqvae.nearest(latents, codebook))
    np.testing.assert_array_equal(codes, io[f'codes_{length}'][0])
    assert (f'recon_{length}' in io) == (length % 4 == 0)
    if length % 4 == 0:
      decoded = encoders.apply(
        decoder, flat, 'motion/decoder', codebook[codes][None]
      )
      encoders.near(decoded, io[f'recon_{length}'], 1e-5)


@pytest.mark.parametrize('start', ['fresh', 'converted'])
def test_the_quantiser_of_shared_trains_the_same_codebook(parity, start):
  """A converted codebook goes on as one of which each code was taken once.

  That is what the original makes of the first latents of its first batch, so
  that a checkpoint which holds these must lead to the same four steps.
  """
  io = np.load(parity / 'quantiser_training.npz')
  config = motion_vqvae.Config(width=64, code_dim=64, num_codes=48)
  first = io['latents_0'].swapaxes(1, 2).reshape(-1, 64)[:48]
  state = encoder_tables.codebook_state(first)
  if start == 'fresh':
    state = {path: np.zeros_like(x) for path, x in state.items()}
  else:
    assert state['motion/quantizer/is_initialised']
  state = {'codebook': originals.below(state, 'motion/quantizer')}
  step = jax.jit(
    functools.partial(
      motion_vqvae.Quantizer(config).apply, train=True, mutable='codebook'
    )
  )
  for i in range(4):
    found, state = step(state, io[f'latents_{i}'].swapaxes(1, 2))
    for ours, theirs in (
      (found.quantised.swapaxes(1, 2), 'quantised'),
      (found.commitment, 'commit'),
      (found.perplexity, 'perplexity'),
      (state['codebook']['codebook'], 'codebook'),
      (state['codebook']['sum'], 'sum'),
      (state['codebook']['count'], 'count'),
    ):
      np.testing.assert_allclose(
        ours, io[f'{theirs}_{i}'], rtol=1e-5, atol=1e-5, err_msg=f'{theirs} {i}'
      )


@pytest.fixture(scope='module')
def vqvae(torch):
  """The re-statement and our arrays of its weights."""
  import torch_models

  theirs = torch_models.Vqvae(
    width=MOTION.width,
    code_dim=MOTION.code_dim,
    nb_code=MOTION.num_codes,
    depth=MOTION.depth,
  )
  theirs = encoders.randomly(theirs, 0.1)
  table = encoder_tables.vqvae(MOTION)
  return theirs, originals.ours(table, encoders.tensors_of(theirs))


def test_clips_of_all_lengths_encode_alone_there_and_padded_here(torch, vqvae):
  theirs, flat = vqvae
  lengths = np.arange(40, 200)
  # What lies behind a clip is noise, which must not matter.
  motion = np.random.default_rng(1).normal(size=(len(lengths), 199, 263))
  motion = motion.astype(np.float32)
  padded = encoders.apply(
    motion_vqvae.Encoder(MOTION), flat, 'motion/encoder', motion, lengths
  )
  for found, clip, length in zip(padded, motion, lengths, strict=True):
    with torch.no_grad():
      (wanted,) = theirs.encode(torch.from_numpy(clip[None, :length])).numpy()
    assert len(wanted) == length // 4
    encoders.near(found[: length // 4], wanted, 1e-5)
    assert not found[length // 4 :].any()


def test_latents_decode_as_in_the_restatement(torch, vqvae):
  theirs, flat = vqvae
  latents = np.random.default_rng(1).normal(size=(2, 12, MOTION.code_dim))
  latents = latents.astype(np.float32)
  with torch.no_grad():
    wanted = theirs.decode(torch.from_numpy(latents)).numpy()
  decoder = motion_vqvae.Decoder(MOTION)
  encoders.near(
    encoders.apply(decoder, flat, 'motion/decoder', latents), wanted, 1e-5
  )


def test_a_converted_codebook_goes_on_as_float32():
  codebook = np.arange(6, dtype=np.float16).reshape(3, 2) / 4
  state = encoder_tables.codebook_state(codebook)
  for name in ('codebook', 'sum'):
    x = state[f'motion/quantizer/{name}']
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, codebook)
  np.testing.assert_array_equal(state['motion/quantizer/count'], [1, 1, 1])


# --- Which names are taken ---------------------------------------------------


@pytest.mark.parametrize('prefix', ['vqvae.', '', 'vae.', 'motion_vae.'])
def test_the_vqvae_is_found_under_each_of_its_prefixes(prefix):
  table = encoder_tables.vqvae(MOTION)
  tensors = originals.drawn(table)
  whole = {name.replace('vqvae.', prefix, 1): x for name, x in tensors.items()}
  others = ('lm.language_model.weight', 't2m_textencoder.input_emb.weight')
  originals.assert_reads_the_same(
    table, whole | dict.fromkeys(others, np.zeros(1)), tensors
  )
  whole[f'{prefix}encoder.model.9.weight'] = np.zeros(1)
  del whole[f'{prefix}quantizer.codebook']
  with pytest.raises(mapping.ConversionError) as caught:
    originals.ours(table, whole)
  assert '1 missing:\n  vqvae.quantizer.codebook' in str(caught.value)
  assert '1 unknown:' in str(caught.value)


def test_a_file_of_another_depth_is_not_the_vqvae():
  tensors = originals.drawn(encoder_tables.vqvae(MOTION))
  deeper = dataclasses.replace(MOTION, down=3)  # T2M-GPT's class's default
  with pytest.raises(mapping.ConversionError, match='34 missing.*\n') as caught:
    originals.ours(encoder_tables.vqvae(deeper), tensors)
  assert '6 unknown:\n  vqvae.encoder.model.4.weight' in str(caught.value)
