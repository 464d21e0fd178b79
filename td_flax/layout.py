"""Names on disk that several modules share.

Imports nothing: `bucket` is imported where nothing heavy may be.
"""

MANIFEST = 'manifest.json'  # of a packed dataset: makes it complete
COPYING = f'{MANIFEST}.copying'  # of one that is copied: what it will be
TOKENIZER = 'tokenizer'  # of one: the folder of its tokenizer
BLOCKS = 'blocks'  # of one: what only `prepare` needs
RECORD = 'record/record.json'  # of a checkpoint: makes it complete
DELETING = '.deleting'  # in the name of a checkpoint that is about to go
UNFINISHED = ('.orbax-checkpoint-tmp', DELETING)  # in names: of interruptions
