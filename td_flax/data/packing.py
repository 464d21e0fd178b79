"""Documents' ids become rows of N ids.

A row is `[CLS] text [SEP] [CLS] text [SEP] ... [PAD]`. A document longer than
the room left in a row goes on in the next one, again between [CLS] and [SEP]:
every piece that a model sees is delimited, and no id is lost.
"""

import numpy as np

from td_flax.data import vocabulary

# A document is begun at the end of a row only if this much of it fits: a piece
# of fewer ids costs two special ones and has next to no context to learn from.
# Short rows settle for a sixteenth, so that little is padded for it.
_SMALLEST_PIECE = 16


class Packer:
  """Fills rows with documents, in their order.

  Args:
    sequence_length: N, ids per row, at least 8.
    special: the ids that delimit and pad.
  """

  def __init__(
    self, sequence_length: int, special: vocabulary.SpecialIds
  ) -> None:
    self._length = sequence_length
    self._special = special
    self._smallest = max(1, min(_SMALLEST_PIECE, sequence_length // 16))
    self._ids = np.full(64 * sequence_length, special.pad, np.uint16)
    self._stop = 0  # ids in use; a multiple of N is the start of a row

  def add(self, ids: np.ndarray) -> None:
    """Appends one document, uint16 [any length]; an empty one leaves nothing.

    Args:
      ids: the document's ids, without special ones.
    """
    self._reserve(len(ids))
    room = self._room()
    if len(ids) > room:
      if room >= self._smallest:
        self._append(ids[:room])
        ids = ids[room:]
      self._end_row()
      ids = self._append_full_rows(ids)
    if len(ids):
      self._append(ids)

  def finish(self) -> np.ndarray:
    """The rows, uint16 [rows, N]; the last one is padded."""
    self._end_row()
    return self._ids[: self._stop].reshape(-1, self._length)

  def _room(self) -> int:
    """Ids of text that the row can still take between [CLS] and [SEP]."""
    return self._length - self._stop % self._length - 2

  def _append(self, ids: np.ndarray) -> None:
    start, stop = self._stop, self._stop + len(ids) + 2
    self._ids[start] = self._special.cls
    self._ids[start + 1 : stop - 1] = ids
    self._ids[stop - 1] = self._special.sep
    self._stop = stop

  def _append_full_rows(self, ids: np.ndarray) -> np.ndarray:
    """Fills whole rows at once; returns what is left for the next one."""
    text = self._length - 2
    num_rows = len(ids) // text
    stop = self._stop + num_rows * self._length
    rows = self._ids[self._stop : stop].reshape(num_rows, self._length)
    rows[:, 0] = self._special.cls
    rows[:, 1:-1] = ids[: num_rows * text].reshape(num_rows, text)
    rows[:, -1] = self._special.sep
    self._stop = stop
    return ids[num_rows * text :]

  def _end_row(self) -> None:
    self._stop += -self._stop % self._length  # padding is there already

  def _reserve(self, num_ids: int) -> None:
    # One more row for what is left of this one, one for the document's end.
    num_rows = num_ids // (self._length - 2) + 2
    needed = self._stop + num_rows * self._length
    if needed > len(self._ids):
      size = max(needed, 2 * len(self._ids))
      size += -size % self._length
      ids = np.full(size, self._special.pad, np.uint16)
      ids[: self._stop] = self._ids[: self._stop]
      self._ids = ids
