"""Takes an address for a server, before anything that takes long."""

import contextlib
import ipaddress
import signal
import socket
from collections.abc import Iterator

# Names by which a browser on this machine knows it.
LOCAL = ('localhost', '127.0.0.1', '[::1]')


def listen(host: str, port: int, *, section: str) -> socket.socket:
  """A socket at that address; nobody can connect before a server listens.

  Args:
    host: an address of this machine, or its name.
    port: 0 takes one that is free.
    section: of the config that both are from, for what is said.

  Raises:
    ValueError: there is no such port.
    OSError: there is no such address, or it is taken.
  """
  if not 0 <= port < 2**16:
    raise ValueError(
      f'Expected --config.{section}.port below {2**16}, found {port}; choose '
      'one, or 0 for one that is free.'
    )
  try:
    family, *_, address = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(address)
  except OSError as error:
    raise OSError(
      f'Expected to listen at {host}:{port}, found: {error.strerror}; choose '
      f'others with --config.{section}.host and --config.{section}.port.'
    ) from error
  return taken


def url(taken: socket.socket) -> str:
  """Where that is, without a path."""
  host, port = taken.getsockname()[:2]
  return f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'


def is_local(host: str) -> bool:
  """Whether nobody but this machine can reach it."""
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host == 'localhost'


@contextlib.contextmanager
def unheard(*signals: int) -> Iterator[None]:
  """uvicorn sends the signal again that it has stopped for: not to us."""
  before = {sig: signal.signal(sig, lambda *_: None) for sig in signals}
  try:
    yield
  finally:
    for sig, handler in before.items():
      signal.signal(sig, handler)
