"""The sample of a corpus that the tokenizer is trained on."""

import heapq


class Sample:
  """The documents with the smallest hashes, as many as fit into `limit` bytes.

  Hashes are as good as random numbers, so this is a uniform sample; and it does
  not depend on the order in which documents are added.
  """

  def __init__(self, limit: int) -> None:
    self._limit = limit
    self.below = 2**64  # a document needs a smaller hash to be of interest
    self._heap: list[tuple[int, str]] = []  # largest hash first
    self._num_bytes = 0

  def add(self, key: int, text: str) -> None:
    """Offers one document with its hash."""
    if key >= self.below:
      return
    heapq.heappush(self._heap, (-key, text))
    self._num_bytes += len(text.encode())
    while self._num_bytes > self._limit or (
      self._heap and -self._heap[0][0] >= self.below
    ):
      key, text = heapq.heappop(self._heap)
      self._num_bytes -= len(text.encode())
      self.below = -key

  def texts(self) -> list[str]:
    """The sample in the order of the hashes."""
    return [text for _, text in sorted(self._heap, reverse=True)]
