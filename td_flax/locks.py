"""Keeping other processes of this machine out of a file or a folder."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from td_flax import errors, progress


@contextlib.contextmanager
def exclusive(
  path: pathlib.Path, advice: str, busy: errors.UserError | None = None
) -> Iterator[None]:
  """Holds the lock of a path.

  The kernel lets go of it when the process ends, however it ends, so it is
  never stale. It needs a POSIX system; a file system without locks costs a
  warning.

  Args:
    path: a folder, or a file, which is made where it is missing.
    advice: what not to do where nothing can be locked, for the warning.
    busy: raised where another process holds the lock; None waits for it.

  Raises:
    OSError: the path cannot be opened.
  """
  # Some file systems lock only what is open for writing; a folder never is.
  flags = os.O_RDONLY if path.is_dir() else os.O_WRONLY | os.O_CREAT
  with contextlib.ExitStack() as stack:
    descriptor = os.open(path, flags, 0o666)
    stack.callback(os.close, descriptor)
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
    except BlockingIOError:
      raise busy from None
    except OSError as error:  # such as NFS for a folder
      progress.write_line(
        f'warning: {path}: cannot be locked ({error.strerror}); {advice}'
      )
    yield
