"""Makes gs:// a folder: put this module's folder on the path as sitecustomize.

Objects appear whole, there are no renames; FAKE_GS names the folder, and while
its file `broken` exists every write fails.
"""

import os
import pathlib
import shutil

import fsspec


class FakeBucket(fsspec.AbstractFileSystem):
  protocol = ('gs', 'gcs')
  cachable = False

  def __init__(self, **options):
    super().__init__(**options)
    self._folder = pathlib.Path(os.environ['FAKE_GS'])

  def _path(self, name):
    return self._folder / self._strip_protocol(name)

  def find(self, path, detail=False, **options):
    found = {
      str(x.relative_to(self._folder)): {'size': x.stat().st_size}
      for x in self._path(path).rglob('*')
      if x.is_file()
    }
    return found if detail else list(found)

  def cat_file(self, path, **options):
    return self._path(path).read_bytes()

  def pipe_file(self, path, value, **options):
    if (self._folder / 'broken').exists():
      raise OSError('503 backend error')
    target = self._path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = self._folder / f'.part-{os.getpid()}-{target.name}'
    part.write_bytes(value)
    part.replace(target)
    with (self._folder / '.writes').open('a') as file:
      file.write(f'{self._strip_protocol(path)}\n')

  def put_file(self, lpath, rpath, **options):
    self.pipe_file(rpath, pathlib.Path(lpath).read_bytes())

  def get_file(self, rpath, lpath, **options):
    with (self._folder / '.reads').open('a') as file:
      file.write(f'{self._strip_protocol(rpath)}\n')
    shutil.copyfile(self._path(rpath), lpath)

  def rm_file(self, path):
    self._path(path).unlink()


fsspec.register_implementation('gs', FakeBucket, clobber=True)
