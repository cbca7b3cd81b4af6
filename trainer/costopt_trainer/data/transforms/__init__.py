"""Documents -> documents, before they become tokens. A new one is a schema class, a file here, and a row in `table.py`.

table               the manifest's word -> a transform, and what a transform is
normalize_unicode   one form for characters that can be written in several ways
"""
