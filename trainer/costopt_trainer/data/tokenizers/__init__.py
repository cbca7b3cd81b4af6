"""How text becomes tokens. A new tokenizer is a schema word, a file here, and a row in `table.py`.

table         the manifest's word -> a tokenizer, and what a tokenizer is
plain_bytes   one token per byte
byte_pairs    byte pairs learned from the training text
hugging_face  a tokenizer.json, which models of that library bring
"""
