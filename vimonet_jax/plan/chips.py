"""Published figures of chips, by what JAX calls them."""

from typing import NamedTuple

_GIB = 2**30


class Chip(NamedTuple):
  """Published figures of what JAX calls a device.

  Attributes:
    name: what it is sold as.
    flops: per second, of bfloat16 products.
    memory: bytes.
    bandwidth: of that memory, bytes per second.
    links: to its neighbours, all together and one way, bytes per second; 0
      where it has none, or where there is one chip only.
  """

  name: str
  flops: float
  memory: float
  bandwidth: float
  links: float

  @property
  def ridge(self) -> float:
    """Operations a byte from which on it waits for compute, not memory."""
    return self.flops / self.bandwidth


# By jax.Device.device_kind: docs.cloud.google.com/tpu/docs/v5e and .../tpu7x
# (of v5p and v6e, too), read 2026-11-28. They give links in both directions
# together.
CHIPS = {
  'TPU v5 lite': Chip('TPU v5e', 197e12, 16 * _GIB, 819e9, 200e9),
  'TPU v5': Chip('TPU v5p', 459e12, 95 * _GIB, 2765e9, 600e9),
  'TPU v6 lite': Chip('TPU v6e', 918e12, 32 * _GIB, 1638e9, 400e9),
  # Two devices a chip.
  'TPU7x': Chip('half a TPU7x', 1153.5e12, 96 * _GIB, 3690e9, 300e9),
  # NVIDIA's data sheets of A100 (1758950 r4), H100 SXM, H200 SXM and L4, as
  # others quote them on 2026-11-29. Those of the last three give products of
  # sparse matrices, which are twice as many, and all give NVLink in both
  # directions together. Of their GB, 10^9 bytes, a device shows some more.
  'NVIDIA A100-SXM4-40GB': Chip('A100 40GB', 312e12, 40e9, 1555e9, 300e9),
  'NVIDIA A100-SXM4-80GB': Chip('A100 80GB', 312e12, 80e9, 2039e9, 300e9),
  'NVIDIA H100 80GB HBM3': Chip('H100', 989.5e12, 80e9, 3350e9, 450e9),
  'NVIDIA H200': Chip('H200', 989.5e12, 141e9, 4800e9, 450e9),
  'NVIDIA L4': Chip('L4', 121e12, 24e9, 300e9, 0.0),
}
