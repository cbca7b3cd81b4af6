"""Files of data: where they lie, in which order they are read, and what is in a packed one.

places        a path or URL, and in which words it is told
found         what settings name -> files on this machine
local         files of this machine: one, those of a folder, those that match a pattern
remote        files behind a URL, copied once into the cache
clients       how long their libraries wait for a server
troubles      what went wrong behind a URL, in one sentence
packed        what is in a .gz or .zst file
extra         libraries of the extra `data`

Every error is the user's to mend and is a NotRetryable("InvalidData") of one sentence, but for a place that cannot be
reached just now.
"""
