"""What a compiled step asks of the chips that it is compiled for.

Nothing here needs the chips: a program can be compiled for TPUs that nobody has
at hand (jax.experimental.topologies). Memory is XLA's own account.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from vimonet_jax.plan import chips, flops, traffic


class Cost(NamedTuple):
  """Of one step, per device.

  Attributes:
    flops: of matrix products and convolutions.
    arguments: bytes of what the step is given and gives back in their place.
    temporaries: bytes of what it keeps meanwhile, at most.
    code: bytes of the program.
    accessed: bytes between memory and compute units, loops counted.
    exchanged: kind of collective -> bytes sent per device. This and `accessed`
      are None where the compiler does not give its program back.
  """

  flops: float
  arguments: int
  temporaries: int
  code: int
  accessed: float | None
  exchanged: Mapping[str, float] | None

  @property
  def memory(self) -> int:
    """Bytes that a device must have."""
    return self.arguments + self.temporaries + self.code

  @property
  def intensity(self) -> float | None:
    """Operations a byte of memory traffic; None where that is not known."""
    return self.flops / self.accessed if self.accessed else None


def of(traced: Any, compiled: Any, devices: int) -> Cost:
  """What a step costs on each of its devices.

  Args:
    traced: from jax.jit(step).trace(...).
    compiled: of the same.
    devices: that it is compiled for.
  """
  memory = compiled.memory_analysis()
  try:
    moved = traffic.of(compiled.as_text())
  except jax.errors.JaxRuntimeError as error:
    # libtpu 0.0.52 cannot write what it has made for a v5p or a v6e.
    if 'RET_CHECK' not in str(error):
      raise
    moved = traffic.Traffic(None, None)
  return Cost(
    flops=flops.of(traced.jaxpr) / devices,
    arguments=memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    accessed=moved.accessed,
    exchanged=moved.exchanged,
  )


class Bound(NamedTuple):
  """Seconds that a step takes at published speeds, by what it waits for.

  Attributes:
    compute: for matrix products.
    memory: for memory traffic; None where that is not known.
    links: for other chips; None where what goes there, or how fast, is not
      known.
  """

  compute: float
  memory: float | None
  links: float | None

  @property
  def seconds(self) -> float:
    """If all that is known went on at once."""
    return max(x for x in self if x is not None)


def bound(cost: Cost, chip: chips.Chip) -> Bound:
  """The roofline of a step on a chip."""
  memory = links = None
  if cost.accessed is not None:
    memory = cost.accessed / chip.bandwidth
  if cost.exchanged is not None:
    sent = sum(cost.exchanged.values())
    if chip.links or not sent:
      links = sent / chip.links if sent else 0.0
  return Bound(cost.flops / chip.flops, memory, links)
